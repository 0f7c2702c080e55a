"""The rows that a cache's videos should have in a collection.

Shape suffixes: N videos, T vectors of several videos together, D dimension.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.features import VideoFeatures
from search.index.candidates import Vectors, index_fingerprint, unit_vectors
from search.index.milvus.collection import LONGEST, Held

ROWS_A_BATCH = 4_000
"""Rows of one request: 8 MiB at 512 numbers. Milvus takes up to 64 MiB."""


class Wanted:
    """The videos of a gallery and the vectors that a collection should hold of them."""

    def __init__(self, cache: FeatureCache, videos: VideoFeatures, vectors: Vectors) -> None:
        """Raises UserError if an id is longer than Milvus takes."""
        ids = videos.ids
        for video_id in ids:
            if len(video_id.encode()) > LONGEST - 20:
                raise UserError(f"the id of video {video_id[:40]}... has {len(video_id):,} characters, and Milvus takes fewer: shorten it")
        self._cache, self.vectors = cache, vectors
        self._videos = videos
        self.number = {video_id: i for i, video_id in enumerate(ids)}
        length_N = self._videos.frames.length_N if vectors == "frames" else np.ones(len(ids), dtype=np.int64)
        self.held = {
            video_id: Held(cache.written_ns(video_id), rows) for video_id, rows in zip(ids, map(int, length_N), strict=True) if rows
        }
        """The ledger that the collection should have. A video without frames has no rows."""
        self.fingerprint = index_fingerprint(cache, self._videos, vectors)
        self.dimension = cache.dimension

    @classmethod
    def of_cache(cls, cache: FeatureCache, video_ids: Iterable[str], vectors: Vectors, max_frames: int | None) -> "Wanted":
        """All of these videos. Features stay on disk, because each is read at most once."""
        return cls(cache, cache.videos(sorted(video_ids), 0, max_frames), vectors)

    @property
    def rows(self) -> int:
        """Number of rows of all videos."""
        return sum(held.rows for held in self.held.values())

    def batches(self, video_ids: Sequence[str]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The rows of these videos, whole videos together: how many videos, and about ROWS_A_BATCH rows."""
        sources = self._sources()
        some: list[str] = []
        waiting = 0
        for video_id in video_ids:
            some.append(video_id)
            waiting += self.held[video_id].rows
            if waiting >= ROWS_A_BATCH:
                yield len(some), self._rows_of(some, sources)
                some, waiting = [], 0
        if some:
            yield len(some), self._rows_of(some, sources)

    def _rows_of(self, video_ids: Sequence[str], sources: dict[str, str]) -> list[dict[str, Any]]:
        numbers = np.array([self.number[video_id] for video_id in video_ids], dtype=np.int64)
        unit_TD, count_N = unit_vectors(self._videos.frames, numbers, self.vectors)
        rows, first = [], 0
        for video_id, number, count in zip(video_ids, numbers.tolist(), count_N.tolist(), strict=True):
            seconds = self._videos.seconds[number].tolist() if self.vectors == "frames" else [0.0]
            held = self.held[video_id]
            for entry in range(count):
                rows.append(
                    {
                        "id": f"{entry}:{video_id}",
                        "video": video_id,
                        "entry": entry,
                        "rows": held.rows,
                        "time": seconds[entry],
                        "source": sources.get(video_id, ""),
                        "written_ns": held.written_ns,
                        "cache": self._cache.digest,
                        "format": self._cache.format,
                        "vector": unit_TD[first + entry],
                    }
                )
            first += count
        return rows

    def _sources(self) -> dict[str, str]:
        """The names of the sources that list each video."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._cache.listings.names()):
            for video_id in self._cache.listings.videos(name)["video_id"]:
                found.setdefault(video_id, []).append(name)
        return {video_id: ",".join(names) for video_id, names in found.items()}
