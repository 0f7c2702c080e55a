"""Links from the report to the files of videos, and to moments in them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.base.links import address, time_fragment
from data.base.quoting import path_text
from data.cache import FeatureCache
from data.datasets.files import files_named
from data.span import Span
from train_head.scoring.splits import Split


@dataclass(frozen=True)
class Links:
    """The addresses of the videos that a page shows, and why some have none."""

    of: Mapping[str, str]
    """By video id, the address of its file."""
    spans: Mapping[str, Span]
    """By video id, the part of the file, for entries that are not whole files."""
    note: str | None
    """A sentence about the videos without an address; None if all have one."""

    def whole(self, video_id: str) -> str:
        """The address of all that the entry covers: its file, or a part of it as a media fragment: clips/a%20dog.mp4#t=2,5.5."""
        span = self.spans.get(video_id)
        if span is None:
            return self.of[video_id]
        return f"{self.of[video_id]}{time_fragment(span.begin, span.end)}"

    def at(self, video_id: str, seconds: float) -> str:
        """The address of a moment, as a media fragment: clips/a%20dog.mp4#t=3.5."""
        return f"{self.of[video_id]}{time_fragment(seconds)}"


def find_links(cache: FeatureCache, split: Split, page: Path, video_ids: Iterable[str]) -> Links:
    """Find the files of these videos where their sources had them when they were extracted. `page`: the path of the report."""
    wanted = sorted({*video_ids})
    files, spans = _files(cache, split, wanted)
    found: dict[str, str] = {}
    gone: dict[str, Path] = {}
    unknown = 0
    for video_id in wanted:
        paths = files.get(video_id, [])
        there = next((path for path in paths if _is_made_from(cache, video_id, path)), None)
        if there is not None:
            found[video_id] = address(there, page)
        elif paths:
            gone[video_id] = paths[0]
        else:
            unknown += 1
    notes = []
    if gone:
        video_id, path = next(iter(gone.items()))
        notes.append(
            f"{len(gone):,} of the {len(wanted):,} videos on this page are not linked, because their files are gone or have changed since "
            f"they were extracted: {video_id} was {path_text(path)}, for example. To link them, run extract again with their folder as "
            "--videos, and evaluate again."
        )
    if unknown:
        which = "the videos" if unknown == len(wanted) else f"{unknown:,} of the {len(wanted):,} videos on this page"
        notes.append(f"The cache does not say where the files of {which} are, so they are not linked.")
    return Links(found, spans, " ".join(notes) or None)


def _files(cache: FeatureCache, split: Split, video_ids: Sequence[str]) -> tuple[dict[str, list[Path]], dict[str, Span]]:
    """The paths that each video may have, and the spans of those that are not whole files. A name with bytes that are not UTF-8 may stand
    for several paths."""
    sources = cache.listings.sources()
    files: dict[str, list[Path]] = {}
    spans: dict[str, Span] = {}
    for name in split.sources:
        # A listing of format 3 does not name its folder.
        folder = sources[name].folder or cache.extraction.videos
        table = cache.listings.videos(name)
        if folder is None or "file" not in table:
            continue
        table = table[table["file"].notna() & table["video_id"].isin(video_ids)]
        for video_id, file, start, end in table[["video_id", "file", "start", "end"]].itertuples(index=False):
            files.setdefault(video_id, []).extend(_named(folder, file))
            span = Span.of_cells(start, end)
            if not span.is_whole:
                spans[video_id] = span
    return files, spans


def _named(folder: str, file: str) -> Iterator[Path]:
    for parent in files_named(Path("/"), folder.lstrip("/")) if "\\x" in folder else [Path(folder)]:
        yield from files_named(parent, file)


def _is_made_from(cache: FeatureCache, video_id: str, path: Path) -> bool:
    """Whether the file is there, and as large as when it was extracted. Its content is not read: a page shows thousands of videos."""
    made = cache.stamp(video_id)
    try:
        return path.is_file() and (not made.is_known or path.stat().st_size == made.file_size)
    except OSError:
        return False  # the folder may not be read, or the name is too long
