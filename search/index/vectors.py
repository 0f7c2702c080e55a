"""An index of videos by vectors: which K of them have a vector nearest to a query's. FAISS does the search.

Videos are numbers from 0 on, each with one vector or several; a video is as near as the nearest of its vectors, by the cosine. They are
kept in shards of SHARD_VECTORS, cut by their number alone: processes that share the shards find what one process finds.

Shape suffixes: T vectors of several videos together, A queries, K videos found, D dimension.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError, not_as_written, one_line
from data.base.sealed import SEAL_BYTES, is_sound, write_sealed
from data.base.whole_files import write_json
from data.base.writable import make_folder

SHARD_VECTORS = 2**17
"""Vectors of a shard, but for the last video's."""
EXACT_VECTORS = 2**15
"""A shard of so many vectors is searched exactly (float32, inner products with all); a larger one has inverted lists of 8-bit numbers."""
VECTORS_A_LIST = 256
LIST_SHARE = 1 / 8
"""Of a shard's lists, the share that a query looks at first."""
TRAINING_VECTORS_A_LIST = 64
FORMAT = 2
INDEX_FILE = "index.json"

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Videos [A, K] nearest first, and their nearness; behind the last one -1, and minus infinity."""


class VideoIndex:
    """Videos by vectors of norm 1. `fingerprint` says which videos and vectors these are: an index of others is refused by `load`.

    Of several processes, number `part[0]` of `part[1]` keeps its share of the shards; all of them are given every video.
    """

    def __init__(self, dimension: int, fingerprint: str, part: tuple[int, int] = (0, 1)) -> None:
        self.dimension, self.fingerprint = dimension, fingerprint
        self.videos = 0
        """Videos that were added, in all processes together."""
        self._part = part
        self._shards: list[Any] = []
        self._vectors = 0
        self._cut = 0
        self._waiting: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []

    def add(self, unit_TD: NDArray[np.float32], count_N: Sequence[int] | NDArray[np.int64]) -> None:
        """Add the next N videos: their vectors of norm 1 one video after the other, and how many each has."""
        assert unit_TD.shape == (int(np.sum(count_N)), self.dimension)
        first = 0
        for count in np.asarray(count_N).tolist():
            if self._mine():
                self._waiting.append((unit_TD[first : first + count], np.full(count, self.videos)))
            first += count
            self.videos += 1
            self._vectors += count
            if self._vectors >= SHARD_VECTORS:
                self.close_shard()

    def close_shard(self) -> None:
        """Make the videos since the last shard a shard of their own; `search` and `save` need it after the last video."""
        if self._waiting:
            vectors, videos = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
            self._shards.append(_make_shard(vectors, videos))
        if self._vectors:
            self._cut += 1
        self._waiting, self._vectors = [], 0

    def _mine(self) -> bool:
        return self._cut % self._part[1] == self._part[0]

    def search(self, query_AD: NDArray[np.float32], k: int) -> Found:
        """The k videos nearest to each query, of this process's shards; a query may have any norm, which scales nearness."""
        assert not self._vectors, "the last shard is not closed"
        query_AD = np.ascontiguousarray(query_AD, dtype=np.float32)
        return nearest([_search_shard(shard, query_AD, k) for shard in self._shards], len(query_AD), k)

    def save(self, folder: Path) -> None:
        """Write the index into a folder; index.json comes last, and without it there is no index."""
        import faiss

        assert not self._vectors, "the last shard is not closed"
        assert self._part == (0, 1), "a part of an index is not kept"
        make_folder(folder, "--index")
        (folder / INDEX_FILE).unlink(missing_ok=True)
        for number, shard in enumerate(self._shards):
            write_sealed(folder / _shard_file(number), bytes(SEAL_BYTES) + faiss.serialize_index(shard).tobytes())
        head = {"format": FORMAT, "fingerprint": self.fingerprint, "dimension": self.dimension, "videos": self.videos}
        head |= {"shards": len(self._shards)}
        write_json(folder / INDEX_FILE, head | {"sha256": _digest(head)})

    @classmethod
    def load(cls, folder: Path, fingerprint: str) -> "VideoIndex":
        """The index in a folder. Raises UserError where a byte of it is damaged, and where it is of other videos or vectors than the
        fingerprint says."""
        import faiss

        try:
            head = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
            if head["format"] != FORMAT:
                raise UserError(f"the index {folder} has format {head['format']}, this program reads {FORMAT}: delete it")
            if head["fingerprint"] != fingerprint:
                raise UserError(
                    f"the index {folder} was built from another cache, other videos or other vectors ({head['fingerprint'][:12]}... there, "
                    f"{fingerprint[:12]}... here): name another folder with --index, or delete this one"
                )
            if head.pop("sha256") != _digest(head):
                raise UserError(f"the index {folder} is damaged ({INDEX_FILE}): delete it")
            index = cls(head["dimension"], fingerprint)
            for file in (folder / _shard_file(number) for number in range(head["shards"])):
                if not is_sound(file):
                    raise UserError(f"the index {folder} is damaged ({file.name}): delete it")
                index._shards.append(faiss.deserialize_index(np.fromfile(file, np.uint8, offset=SEAL_BYTES)))
            index.videos = head["videos"]
        except (OSError, KeyError, TypeError, RuntimeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise not_as_written(folder, error, f"the index {folder} is damaged ({one_line(error)}): delete it") from error
        return index

    @property
    def bytes_held(self) -> int:
        """Memory of the vectors and their numbers, without the tables that find them."""
        return sum(shard.ntotal * (8 + (4 if _is_exact(shard) else 1) * self.dimension) for shard in self._shards)


def nearest(found: Sequence[Found], queries: int, k: int) -> Found:
    """The k nearest of what several shards or processes found, of which each has its own videos; of equally near ones those first added."""
    video_AM = np.concatenate([np.full((queries, k), -1), *(videos for videos, _ in found)], axis=1)
    near_AM = np.concatenate([np.full((queries, k), -np.inf, dtype=np.float32), *(near for _, near in found)], axis=1)
    order_AK = np.lexsort((video_AM, -near_AM))[:, :k]
    return np.take_along_axis(video_AM, order_AK, axis=1), np.take_along_axis(near_AM, order_AK, axis=1)


def _digest(head: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode()).hexdigest()


def _shard_file(number: int) -> str:
    return f"shard-{number}.faiss"


def _make_shard(unit_TD: NDArray[np.float32], video_T: NDArray[np.int64]) -> Any:
    """A FAISS index whose vectors carry the numbers of their videos."""
    import faiss

    count, dimension = unit_TD.shape
    if count <= EXACT_VECTORS:
        shard: Any = faiss.IndexIDMap(faiss.IndexFlatIP(dimension))
    else:
        shard = faiss.index_factory(dimension, f"IVF{count // VECTORS_A_LIST},SQ8", faiss.METRIC_INNER_PRODUCT)
        shard.cp.max_points_per_centroid = TRAINING_VECTORS_A_LIST
        shard.train(unit_TD)
    shard.add_with_ids(unit_TD, video_T)
    return shard


def _is_exact(shard: Any) -> bool:
    return not hasattr(shard, "nlist")


def _search_shard(shard: Any, query_AD: NDArray[np.float32], k: int) -> Found:
    """The k videos of a shard nearest to each query; where too few videos are among the vectors found, more vectors are asked for."""
    import faiss

    video_AK = np.full((len(query_AD), k), -1)
    near_AK = np.full((len(query_AD), k), -np.inf, dtype=np.float32)
    lacking = np.arange(len(query_AD))
    vectors, share = 4 * k, LIST_SHARE
    while len(lacking):
        vectors = min(vectors, shard.ntotal)
        share = min(share, 1.0)
        wide = None if _is_exact(shard) else faiss.SearchParametersIVF(nprobe=max(1, round(share * shard.nlist)))  # type: ignore[call-arg]
        near_AT, video_AT = shard.search(query_AD[lacking], vectors, params=wide)
        for row, near_T, video_T in zip(lacking, near_AT, video_AT, strict=True):
            # Vectors come nearest first: a video's first one is its nearest.
            firsts = np.sort(np.unique(video_T, return_index=True)[1])
            firsts = firsts[video_T[firsts] >= 0][:k]
            video_AK[row, : len(firsts)], near_AK[row, : len(firsts)] = video_T[firsts], near_T[firsts]
        if vectors == shard.ntotal and (share == 1.0 or wide is None):
            break
        lacking = lacking[video_AK[lacking, -1] < 0]
        vectors, share = 2 * vectors, 2 * share
    return video_AK, near_AK
