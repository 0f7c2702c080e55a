"""Find what the cache lacks of a data set."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.base.quoting import path_text
from data.cache import FeatureCache, Images
from data.datasets import Dataset
from data.span import Span
from extract.failures import Failure, read_failures
from extract.options import ExtractOptions
from extract.plan.digest import file_digest


@dataclass
class Todo:
    """What to extract.

    `videos` has the columns of `Dataset.videos` and four of booleans. `thumbnails` and `pixels` say which images to keep. `only_tokens`
    marks videos whose frames are cached already and lack their patch tokens; `stored` those of them whose pixels are cached too, so that
    no file is decoded. `texts` are distinct. `known` are the earlier failures that are not retried. `outdated` holds the ids of listed
    failures that no longer apply. `for_pictures` counts the videos that are cached, but without the pictures asked for.
    """

    videos: pd.DataFrame
    texts: list[str]
    known: list[Failure]
    outdated: set[str]
    for_pictures: int = 0

    @property
    def extracted(self) -> pd.DataFrame:
        """The videos whose frames are extracted."""
        return self.videos[~self.videos["only_tokens"]]


def find_todo(dataset: Dataset, cache: FeatureCache | None, options: ExtractOptions, shard: tuple[int, int]) -> Todo:
    """The videos with a file and the non-empty texts in this process's share that the cache lacks."""
    texts = [text for text in dict.fromkeys(dataset.captions["caption"]) if text.strip()][shard[0] :: shard[1]]
    videos = dataset.videos.iloc[shard[0] :: shard[1]]
    videos = videos[videos["file"].notna()]
    if cache is None:
        pictures = {"thumbnails": options.thumbnails, "pixels": options.store_pixels}
        return Todo(videos.assign(**pictures, only_tokens=False, stored=False), texts, [], set())
    asked = _images_asked_for(options)
    failed = read_failures(options.cache)
    wanted: list[bool] = []
    only_tokens: list[bool] = []
    known: list[Failure] = []
    for_pictures = 0
    digest_of = functools.cache(_digest_if_readable)  # a file may have many segments
    rows: Iterator[Any] = videos.itertuples(index=False)
    for row in rows:
        stat = row.file.stat()
        digest = functools.partial(digest_of, row.file)
        there = cache.is_current(row.video_id, stat.st_size, stat.st_mtime_ns, Span.of_cells(row.start, row.end), digest)
        framed = there and cache.images_of(row.video_id) >= asked
        for_pictures += there and not framed
        current = framed and (options.tokens is None or cache.has_patches(row.video_id))
        failure = failed.get(row.video_id)
        skipped = not current and failure is not None and _stays_failed(failure, row, stat, digest, options)
        if skipped and failure is not None:
            known.append(failure)
        wanted.append(not current and not skipped)
        only_tokens.append(framed)
    work = videos.assign(only_tokens=only_tokens)[np.array(wanted, dtype=bool)]
    # A video that is re-extracted for another reason keeps the kinds of images that it has.
    there_already = [cache.images_of(video_id) for video_id in work["video_id"]]
    keep: list[frozenset[Images]] = [
        frozenset() if only else asked | kinds for only, kinds in zip(work["only_tokens"], there_already, strict=True)
    ]
    work = work.assign(
        thumbnails=["thumbnails" in kinds for kinds in keep],
        pixels=["pixels" in kinds for kinds in keep],
        stored=[only and "pixels" in kinds for only, kinds in zip(work["only_tokens"], there_already, strict=True)],
    )
    return Todo(work, [text for text in texts if ("texts", text) not in cache], known, _outdated(failed, dataset), for_pictures)


def _images_asked_for(options: ExtractOptions) -> frozenset[Images]:
    asked: dict[Images, bool] = {"thumbnails": options.thumbnails, "pixels": options.store_pixels}
    return frozenset(name for name, wanted in asked.items() if wanted)


def _digest_if_readable(file: Path) -> str:
    """The digest of a file, or empty if it cannot be read. An empty digest matches no extracted file, so extraction reports the error."""
    try:
        return file_digest(file)
    except OSError:
        return ""


def _stays_failed(failure: Failure, row: Any, stat: os.stat_result, digest: Callable[[], str], options: ExtractOptions) -> bool:
    """True if extracting the video again would fail in the same way."""
    if options.retry_failed or (options.allow_partial and failure.frames_decoded):
        return False
    return failure.span == Span.of_cells(row.start, row.end) and failure.is_about(stat, digest)


def _outdated(failed: Mapping[str, Failure], dataset: Dataset) -> set[str]:
    """Ids of failures whose file has changed since and now has other ids: it was broken then, and is now cut into segments."""
    outdated: set[str] = set()
    if failed:
        ids, files = set(dataset.videos["video_id"]), {path_text(file): file for file in dataset.videos["file"].dropna()}
        for video_id, failure in failed.items():
            file = files.get(failure.file)
            if video_id not in ids and file is not None and not failure.is_about(file.stat(), functools.partial(_digest_if_readable, file)):
                outdated.add(video_id)
    return outdated
