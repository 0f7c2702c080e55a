"""A FAISS index that finds the K videos whose vectors are nearest to a query.

Videos are numbered from 0. Each has one or more vectors, and the nearest of them, by cosine, decides how near the video is.
Vectors are stored in shards of about SHARD_VECTORS. Shard boundaries depend only on the number of vectors, so processes that
share the shards find the same videos as a single process.

    index = VideoIndex(dimension=2)
    index.add(np.eye(2, dtype=np.float32), count_N=[1, 1])
    index.close_shard()
    index.search(np.array([[1, 0.1]], dtype=np.float32), k=2)    # videos [[0, 1]], nearness [[1.0, 0.1]]

Shape suffixes: T vectors of several videos together, N videos added, V videos of a shard, A queries, K videos found, D dimension.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.index.engine import Found, nearest

SHARD_VECTORS = 2**17
"""A shard is closed after the video that brings it to this many vectors."""
EXACT_VECTORS = 2**15
"""Up to this many vectors, a shard is searched exhaustively in float32; a larger one uses inverted lists with 8-bit codes (IVF, SQ8)."""
VECTORS_A_LIST = 256
LIST_SHARE = 1 / 8
"""Fraction of a shard's inverted lists that a query probes first."""
TRAINING_VECTORS_A_LIST = 64


class Shard(NamedTuple):
    """Some videos: a FAISS index whose vector ids count the videos of the shard, and their numbers in the gallery."""

    vectors: Any
    number_V: NDArray[np.int64]


class VideoIndex:
    """An index of unit vectors.

    `share` is (rank, world_size). Every process adds all videos, and keeps every world_size-th shard.
    """

    def __init__(self, dimension: int, share: tuple[int, int] = (0, 1), shards: Sequence[Shard] = (), videos: int = 0) -> None:
        """`shards`, `videos`: those of a saved index."""
        self.dimension = dimension
        self.shards = list(shards)
        self.videos = videos
        """Number of videos added; the same in all processes."""
        self._share = share
        self._vectors = 0
        self._closed = 0
        self._waiting: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []

    def add(
        self, unit_TD: NDArray[np.float32], count_N: Sequence[int] | NDArray[np.int64], number_N: NDArray[np.int64] | None = None
    ) -> None:
        """Add N videos: their unit vectors, concatenated, the number of vectors of each video, and its number in the gallery, ascending. By
        default, they are numbered on from the videos that are there."""
        assert unit_TD.shape == (int(np.sum(count_N)), self.dimension)
        counts = np.asarray(count_N).tolist()
        numbers = range(self.videos, self.videos + len(counts)) if number_N is None else number_N.tolist()
        first = 0
        for count, number in zip(counts, numbers, strict=True):
            if self._mine():
                self._waiting.append((unit_TD[first : first + count], np.full(count, number)))
            first += count
            self.videos += 1
            self._vectors += count
            if self._vectors >= SHARD_VECTORS:
                self.close_shard()

    def close_shard(self) -> None:
        """Turn the videos added since the last shard into a shard. Call it after the last video, before `search` or `save`."""
        if self._waiting:
            vectors, videos = (np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
            self.shards.append(_make_shard(vectors, videos))
        if self._vectors:
            self._closed += 1
        self._waiting, self._vectors = [], 0

    def _mine(self) -> bool:
        rank, world_size = self._share
        return self._closed % world_size == rank

    def search(self, query_AD: NDArray[np.float32], k: int) -> Found:
        """The k videos nearest to each query among this process's shards. Queries need not have norm 1."""
        assert not self._vectors, "the last shard is not closed"
        query_AD = np.ascontiguousarray(query_AD, dtype=np.float32)
        return nearest([_search_shard(shard, query_AD, k) for shard in self.shards], len(query_AD), k)

    def close(self) -> None:
        """Nothing: the index is in memory."""

    @property
    def bytes_held(self) -> int:
        """Bytes of the vectors and their video numbers, without FAISS's lookup tables."""
        held = (shard.vectors for shard in self.shards)
        return sum(vectors.ntotal * (8 + (4 if _is_exact(vectors) else 1) * self.dimension) for vectors in held)


def _make_shard(unit_TD: NDArray[np.float32], number_T: NDArray[np.int64]) -> Shard:
    """A shard of vectors [T, D] whose videos have these numbers."""
    import faiss

    number_V, video_T = np.unique(number_T, return_inverse=True)
    count, dimension = unit_TD.shape
    if count <= EXACT_VECTORS:
        vectors: Any = faiss.IndexIDMap(faiss.IndexFlatIP(dimension))
    else:
        vectors = faiss.index_factory(dimension, f"IVF{count // VECTORS_A_LIST},SQ8", faiss.METRIC_INNER_PRODUCT)
        vectors.cp.max_points_per_centroid = TRAINING_VECTORS_A_LIST
        vectors.train(unit_TD)
    vectors.add_with_ids(unit_TD, video_T.astype(np.int64))
    return Shard(vectors, number_V)


def _is_exact(vectors: Any) -> bool:
    return not hasattr(vectors, "nlist")


def _search_shard(shard: Shard, query_AD: NDArray[np.float32], k: int) -> Found:
    """The k videos of a shard nearest to each query.

    FAISS returns vectors, and several may belong to one video. Queries that have found too few videos ask again for twice as many
    vectors.
    """
    import faiss

    index = shard.vectors
    video_AK = np.full((len(query_AD), k), -1)
    near_AK = np.full((len(query_AD), k), -np.inf, dtype=np.float32)
    lacking = np.arange(len(query_AD))
    vectors, share = 4 * k, LIST_SHARE
    while len(lacking):
        vectors = min(vectors, index.ntotal)
        share = min(share, 1.0)
        wide = None if _is_exact(index) else faiss.SearchParametersIVF(nprobe=max(1, round(share * index.nlist)))  # type: ignore[call-arg]
        near_AT, video_AT = index.search(query_AD[lacking], vectors, params=wide)
        for row, near_T, video_T in zip(lacking, near_AT, video_AT, strict=True):
            # Vectors come nearest first, so the first vector of a video is its nearest.
            firsts = np.sort(np.unique(video_T, return_index=True)[1])
            firsts = firsts[video_T[firsts] >= 0][:k]
            video_AK[row, : len(firsts)], near_AK[row, : len(firsts)] = shard.number_V[video_T[firsts]], near_T[firsts]
        if vectors == index.ntotal and (share == 1.0 or wide is None):
            break
        lacking = lacking[video_AK[lacking, -1] < 0]
        vectors, share = 2 * vectors, 2 * share
    return video_AK, near_AK
