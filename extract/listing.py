"""What an extraction lists of its source in the cache, and what it drops that no source lists."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data.cache import FeatureCache
from data.datasets import Dataset
from data.datasets.files import printable, quote
from data.errors import UserError
from data.listings import Listings
from data.prune import drop, unlisted
from data.sources import Source, name_of, source_of
from extract.digest import file_digest
from extract.options import ExtractOptions
from extract.videos import part_of


@dataclass(frozen=True)
class Named:
    """The source of an extraction, under its name in the cache."""

    name: str
    source: Source
    others: dict[str, Source]


def named(options: ExtractOptions, preset: Any) -> Named:
    """The source that the options say. Raises UserError where its name is none, or that of another source."""
    there = Listings(options.cache).sources()
    source = source_of(preset, options.videos, options.annotations)
    name = name_of(source, options.name, options.dataset == "table", there)
    return Named(name, source, {other: their for other, their in there.items() if other != name})


def require_own_ids(dataset: Dataset, cache: FeatureCache, own: Named) -> None:
    """Raises UserError where a video has the id of another file, which another source lists: a cache has one video of an id."""
    for other, their in own.others.items():
        if their.folder is None or their.folder == own.source.folder:
            continue
        files = cache.listings.gallery(other)
        rows: Any = dataset.videos[dataset.videos["video_id"].isin(files) & dataset.videos["file"].notna()].itertuples(index=False)
        for row in rows:
            theirs = Path(their.folder, files[row.video_id])
            # What is gone may have moved here.
            if theirs.exists() and not theirs.samefile(row.file) and not _is_cached(cache, row):
                raise UserError(
                    f"{quote(row.video_id)} is {printable(row.file)} here and {printable(theirs)} in {other}: extract into another "
                    "--cache, or from a folder that holds both"
                )


def _is_cached(cache: FeatureCache, row: Any) -> bool:
    stat = row.file.stat()
    start, end = part_of(row)
    part = start or 0.0, math.inf if end is None else end
    return cache.is_current(row.video_id, stat.st_size, stat.st_mtime_ns, *part, lambda: file_digest(row.file))


def keep_listing(dataset: Dataset, cache: FeatureCache, own: Named, folder: Path, shard: tuple[int, int]) -> None:
    """Put what is listed in place of what the source listed before, unless none of its files is there: a disk may not be mounted."""
    files = dataset.videos["file"]
    if files.isna().all() and own.name in cache.listings.sources() and cache.listings.gallery(own.name):
        print(f"none of the videos of {own.name} has a file: what it listed before stays in the gallery", file=sys.stderr)
        return
    names = [None if file is None else printable(file.relative_to(folder)) for file in files]
    videos = dataset.videos.assign(file=pd.Series(names, dtype=object))
    cache.listings.write(own.name, own.source, dataset.captions, videos, shard)


def count_unlisted(dataset: Dataset, cache: FeatureCache, own: Named) -> dict[str, int]:
    """How many videos and texts of the cache no source would list any more."""
    videos, texts = cache.listings.all_listed(without=own.name)
    videos |= {*dataset.videos["video_id"]}
    texts |= {*dataset.captions["caption"]}
    return {kind: len(names) for kind, names in unlisted(cache, videos, texts).items()}


def prune(cache: FeatureCache) -> dict[str, int]:
    """Drop what no source lists: how many videos and texts, and the bytes that are free again."""
    names = unlisted(cache, *cache.listings.all_listed())
    freed = drop(cache, names)
    return {**{kind: len(dropped) for kind, dropped in names.items()}, "bytes": freed}
