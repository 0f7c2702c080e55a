"""Cuts the moments of answers into clips in a folder, and says which were copied, which encoded again, and which left out."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.base.errors import UserError
from data.base.progress import Progress
from data.base.quoting import visible
from data.base.writable import make_folder
from data.datasets.containers import is_video_name
from search.output.cut import CannotCut, Cutter
from search.output.rows import Row

LONGEST_NAME = 100
"""Bytes of a video's id in the name of a clip. File systems take 255 for the whole name, some of them less."""

GONE = "its file is unknown, gone or has changed"
IN_THE_WAY = "the clip would replace a video that was searched"


def write_clips(folder: Path, rows: Sequence[Row], around: float, quiet: bool) -> str:
    """Cut each moment, with `around` seconds before and after it, into a file in the folder, and return a line that says what was done.

    Clips of the same names are replaced, and other files stay. Raises UserError if no moment can be cut, or if the disk is full.
    """
    if not rows:
        return f"no clips in {folder}: nothing was found"
    make_folder(folder, "--clips")
    cutter, done, left_out, example = Cutter(), Counter[str](), Counter[str](), dict[str, str]()
    sources = {row.path for row in rows if row.path is not None}
    with Progress("clips", len(rows), "clips", quiet) as progress:
        for row, name in zip(rows, clip_names(rows), strict=True):
            try:
                done[_cut(cutter, row, folder / name, around, sources)] += 1
            except CannotCut as error:
                left_out[str(error)] += 1
                example.setdefault(str(error), row.video_id)
            progress.update(note=f"{left_out.total():,} left out" if left_out else "")
    cut, copied = done.total(), done.pop("", 0)
    parts = [f"{copied:,} copied"] if copied else []
    parts += [f"{count:,} encoded again ({why})" for why, count in done.most_common()]
    skipped = "; ".join(f"{count:,} left out ({why}, as of {visible(example[why])})" for why, count in left_out.most_common())
    if not parts:
        raise UserError(f"no clip could be cut: {skipped}; name the folder of the unchanged files with --videos, or extract again")
    return f"{cut:,} clip{'s' * (cut != 1)} in {folder}: {'; '.join([*parts, *[skipped] * bool(skipped)])}"


def _cut(cutter: Cutter, row: Row, target: Path, around: float, sources: set[Path]) -> str:
    """Cut one moment, and return why it was encoded again, empty if it was copied. Raises CannotCut."""
    if row.path is None:
        raise CannotCut(GONE)
    # A folder of clips may itself be searched.
    if any(target.with_name(f"{target.name}{suffix}").resolve() in sources for suffix in (".mp4", ".webm")):
        raise CannotCut(IN_THE_WAY)
    return cutter.cut(row.path, max(0.0, row.seconds - around), row.seconds + around, target).again


def clip_names(rows: Sequence[Row]) -> list[str]:
    """A name without suffix for the clip of each moment: 01-video7-0m04.0s, and q2-01-video7-0m04.0s if there are several queries.

    Names sort by query and rank, differ from each other even where case does not count, and hold no separators of paths.
    """
    queries, ranks = max(row.number for row in rows), max(row.rank for row in rows)
    names: list[str] = []
    taken: set[str] = set()
    for row in rows:
        query = f"q{row.number:0{len(str(queries))}}-" if queries > 1 else ""
        name = f"{query}{row.rank:0{max(2, len(str(ranks)))}}-{_safe(row.video_id)}-{_clock(row.seconds)}"
        # Moments within a tenth of a second.
        count = 1
        while (unique := name if count == 1 else f"{name}-{count}").casefold() in taken:
            count += 1
        taken.add(unique.casefold())
        names.append(unique)
    return names


def _safe(video_id: str) -> str:
    """The id without the suffix of a video, its letters, digits, dots and dashes kept, and cut to LONGEST_NAME bytes."""
    name = video_id[: -len(Path(video_id).suffix)] if is_video_name(Path(video_id)) else video_id
    kept = re.sub(r"[^\w.-]+", "_", name).strip("._") or "video"
    return kept.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")


def _clock(seconds: float) -> str:
    """Seconds as 1h02m03.4s, without the hours if there are none."""
    tenths = round(seconds * 10)
    hours = f"{tenths // 36000}h{tenths // 600 % 60:02}" if tenths >= 36000 else f"{tenths // 600}"
    return f"{hours}m{tenths // 10 % 60:02}.{tenths % 10}s"
