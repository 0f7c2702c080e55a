"""Find new videos whose file is cached under another name, so that a file that was renamed or moved is not decoded again."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from data.cache import FeatureCache, VideoEntry
from data.cache.hdf5 import open_file
from data.cache.index import read_column
from data.cache.layout import NAMES
from data.span import Span
from extract.plan.digest import file_digest


def renamed_entries(videos: pd.DataFrame, cache: FeatureCache) -> Iterator[VideoEntry]:
    """The cached features, under their new ids, of those of the videos (`Todo.videos`) that are the same span of the same file as a cached
    one, judged by size and digest, which has the pictures asked for. Patch tokens are left out."""
    by_size = defaultdict[tuple[int, float, float], list[str]](list)
    for video_id in cache.names("videos"):
        stamp = cache.stamp(video_id)
        if stamp.file_digest:
            by_size[stamp.file_size, stamp.start, stamp.end].append(video_id)
    rows: Iterator[Any] = videos.itertuples(index=False)
    for row in rows:
        span, asked = Span.of_cells(row.start, row.end), {name for name in ("thumbnails", "pixels") if getattr(row, name)}
        try:
            stat = row.file.stat()
            alike = by_size.get((stat.st_size, *span.bounds))
            digest = file_digest(row.file) if alike else ""
        except OSError:
            continue  # extraction reports the error
        same = [name for name in alike or () if cache.stamp(name).file_digest == digest and cache.images_of(name) >= asked]
        if same:
            yield _copy(cache, same[0], row.video_id, stat.st_mtime_ns, span)


def _copy(cache: FeatureCache, video_id: str, new_id: str, mtime_ns: int, span: Span) -> VideoEntry:
    """A cached video under a new id."""
    place, stamp = cache.places("videos")[video_id], cache.stamp(video_id)
    with open_file(place.part.path) as file:
        group = file[place.part.group]
        count = len(group[NAMES["videos"]])
        expected, hdr, decoder = (read_column(group, name, count)[place.entry] for name in ("frames_expected", "hdr", "decoder"))
    kept = cache.images_of(video_id)
    return VideoEntry(
        new_id,
        cache.frames(video_id).astype(np.float32),
        cache.seconds(video_id),
        stamp.file_size,
        mtime_ns,
        stamp.file_digest,
        span,
        int(expected),
        str(hdr),
        str(decoder),
        cache.images("thumbnails", video_id) if "thumbnails" in kept else (),
        cache.images("pixels", video_id) if "pixels" in kept else (),
    )
