"""Update the listing of a source in the cache, and prune what no source lists."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data.base.errors import UserError
from data.base.quoting import path_text, quote
from data.cache import FeatureCache
from data.cache.layout import FAILURES_FILE, NAMES
from data.cache.listings import Listing, Listings
from data.cache.prune import drop, unlisted
from data.cache.sources import MOVED, Source, name_of, source_of
from data.datasets import Dataset, Preset
from data.span import Span
from extract.failures import read_failures, write_failures
from extract.options import ExtractOptions
from extract.plan.digest import file_digest


@dataclass(frozen=True)
class NamedSource:
    """The source of an extraction with its name in the cache, and the cache's other sources by name."""

    name: str
    source: Source
    others: dict[str, Source]


def name_source(options: ExtractOptions, preset: Preset, dataset: Dataset) -> NamedSource:
    """The source that the options describe. Raises UserError if its name is invalid or belongs to another source.

    Sources whose tables are damaged are reported and left out.
    """
    listings = Listings(options.cache)
    damaged = listings.damaged()
    for name in damaged:
        print(f"the listing of {name} in {options.cache} is damaged: extract it again to rewrite the listing", file=sys.stderr)
    there = listings.sources(damaged)
    ids = {*dataset.videos["video_id"]}

    def listed(name: str) -> float:
        before = {video_id.partition("#t=")[0] for video_id in listings.videos(name)["video_id"]}
        return len(before & ids) / max(len(before), 1)

    source = source_of(preset, options.videos, options.annotations, dataset.division)
    name = name_of(source, options.name, options.dataset == "table", there, listed)
    return NamedSource(name, source, {other: their for other, their in there.items() if other != name})


def require_own_ids(dataset: Dataset, cache: FeatureCache, own: NamedSource, folder: Path) -> None:
    """Raise UserError if another source lists the id of a video for another file, or for another span: ids are unique in a cache."""
    here = dataset.videos[dataset.videos["file"].notna()].set_index("video_id")
    for other, their in own.others.items():
        listed = cache.listings.videos(other)
        listed = listed[listed["file"].notna()].set_index("video_id")
        both = listed.index.intersection(here.index)
        mine, theirs = here.loc[both], listed.loc[both]
        same = (mine[["start", "end"]].fillna(-1.0) == theirs[["start", "end"]].fillna(-1.0)).all(axis=1)
        for video_id in both[~same]:
            spans = [Span.of_cells(row.start, row.end) for row in (mine.loc[video_id], theirs.loc[video_id])]
            raise UserError(
                f"{quote(video_id)} is {spans[0]} of its file here and {spans[1]} in {other}: give one of "
                "them another id in a column video_id, or extract into another --cache"
            )
        if their.folder in (None, own.source.folder) or _has_moved(their, listed["file"], folder):
            continue
        assert their.folder is not None
        for video_id in both:
            path, row = Path(their.folder, theirs.loc[video_id, "file"]), mine.loc[video_id]
            if not (path.exists() and path.samefile(row["file"])) and not _is_cached(cache, video_id, row):
                raise UserError(
                    f"{quote(video_id)} is {path_text(row['file'])} here and {path_text(path)} in {other}: extract into another --cache, "
                    "or from a folder that holds both"
                )


def _has_moved(source: Source, files: pd.Series, folder: Path) -> bool:
    """True if the folder of a source is gone and most of its files are in `folder`."""
    if source.folder is None or Path(source.folder).exists():
        return False
    there = [file for file in files if (folder / file).exists()]
    return len(there) > MOVED * len(files)


def _is_cached(cache: FeatureCache, video_id: str, row: Any) -> bool:
    stat = row["file"].stat()
    span = Span.of_cells(row["start"], row["end"])
    return cache.is_current(video_id, stat.st_size, stat.st_mtime_ns, span, lambda: file_digest(row["file"]))


def to_list(dataset: Dataset, cache: FeatureCache, own: NamedSource, folder: Path) -> Listing:
    """The new listing of the source.

    Entries whose disk may not be mounted are kept, with a note: files in an empty folder, and the names of all files if none exists.
    """
    files = dataset.videos["file"]
    names = [None if file is None else path_text(file.relative_to(folder)) for file in files]
    videos = dataset.videos.assign(file=pd.Series(names, dtype=object), failed=False)
    listings = cache.listings
    if own.name in listings.names() and own.name not in listings.damaged():
        before = listings.videos(own.name)
        if files.isna().all() and before["file"].notna().any():
            print(f"no video of {own.name} has a file: the file names in its listing are kept", file=sys.stderr)
            known = before.drop_duplicates("video_id").set_index("video_id")["file"]
            videos = videos.assign(file=videos["video_id"].map(known).astype(object))
        if dataset.captions.empty:
            kept = before[[_is_in_an_empty_folder(folder, file) for file in before["file"]]]
            if len(kept):
                where = path_text(Path(kept["file"].iloc[0]).parent)
                print(
                    f"{len(kept)} missing videos stay in the gallery: their folder, such as {where}, is empty, as if a disk were not "
                    "mounted; remove the folder if they were deleted",
                    file=sys.stderr,
                )
                videos = pd.concat([videos, kept[videos.columns]], ignore_index=True)
    return Listing(own.source, dataset.captions, videos)


def _is_in_an_empty_folder(folder: Path, file: str | None) -> bool:
    if not isinstance(file, str):
        return False
    nearest = next(parent for parent in (folder / file).parents if parent.is_dir())
    return nearest != folder and nearest.is_relative_to(folder) and not any(nearest.iterdir())


def with_failures(listed: Listing, dataset: Dataset, cache: FeatureCache) -> Listing:
    """The listing with failed videos marked, since their cached features, if any, come from an older file.

    A video that only could not be given patch tokens is not marked: its features come from the file as it is now.
    """
    failed = read_failures(cache.path)
    rows = dataset.videos[dataset.videos["video_id"].isin(failed) & dataset.videos["file"].notna()]
    usable = {row["video_id"] for row in rows.to_dict("records") if row["file"].is_file() and _is_cached(cache, row["video_id"], row)}
    marks = listed.videos["video_id"].isin(failed.keys() - usable)
    return Listing(listed.source, listed.captions, listed.videos.assign(failed=marks))


def unlisted_of(dataset: Dataset, cache: FeatureCache | None, own: NamedSource, options: ExtractOptions) -> dict[str, dict[str, int]]:
    """With --prune: the numbers of cached videos and texts that no source would list any more, and of videos' patch tokens to drop."""
    if not options.prune:
        return {}
    if cache is None:
        return {"unlisted": dict.fromkeys(NAMES, 0)}
    listed = to_list(dataset, cache, own, options.videos)
    videos, texts = cache.listings.all_listed(without=own.name)
    names = unlisted(cache, videos | {*listed.videos["video_id"]}, texts | {*listed.captions["caption"]})
    return {"unlisted": {kind: len(dropped) for kind, dropped in names.items()}}


def prune(path: Path) -> dict[str, int]:
    """Remove what no source lists, its failures, and patch tokens of other frames than those in the cache.

    Returns the numbers of videos, texts and videos' patch tokens removed, and the bytes freed.
    """
    parts = [part for kind in NAMES for part in sorted(path.glob(f"{kind}-*.h5"))]
    # Open the cache after listing the parts, so that what another process adds meanwhile is in none of them.
    cache = FeatureCache(path)
    listed = cache.listings.all_listed()
    names = unlisted(cache, *listed)
    freed = drop(cache, names, parts)
    if names["patches"]:
        print(f"dropped patch tokens of {len(names['patches'])} videos that are not listed or have other frames now", file=sys.stderr)
    failures = read_failures(path).values()
    if any(failure.video_id not in listed[0] for failure in failures):
        write_failures(path / FAILURES_FILE, [failure for failure in failures if failure.video_id in listed[0]])
    return {**{kind: len(dropped) for kind, dropped in names.items()}, "bytes": freed}
