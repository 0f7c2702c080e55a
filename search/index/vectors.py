"""A FAISS index that finds the K videos whose vectors are nearest to a query.

Videos are numbered from 0. Each has one or more vectors, and the nearest of them, by cosine, decides how near the video is.
Vectors are stored in shards of about SHARD_VECTORS. Shard boundaries depend only on the number of vectors, so processes that
share the shards find the same videos as a single process.

    index = VideoIndex(dimension=2, fingerprint="...")
    index.add(np.eye(2, dtype=np.float32), count_N=[1, 1])
    index.close_shard()
    index.search(np.array([[1, 0.1]], dtype=np.float32), k=2)    # videos [[0, 1]], nearness [[1.0, 0.1]]

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
"""A shard is closed after the video that brings it to this many vectors."""
EXACT_VECTORS = 2**15
"""Up to this many vectors, a shard is searched exhaustively in float32; a larger one uses inverted lists with 8-bit codes (IVF, SQ8)."""
VECTORS_A_LIST = 256
LIST_SHARE = 1 / 8
"""Fraction of a shard's inverted lists that a query probes first."""
TRAINING_VECTORS_A_LIST = 64
FORMAT = 2
INDEX_FILE = "index.json"

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Videos [A, K], nearest first, and their cosines times the query's norm. Missing entries at the end are -1 and minus infinity."""


class VideoIndex:
    """An index of unit vectors. The fingerprint identifies videos and vectors; `load` refuses an index with another one.

    `share` is (rank, world_size). Every process adds all videos, and keeps every world_size-th shard.
    """

    def __init__(self, dimension: int, fingerprint: str, share: tuple[int, int] = (0, 1)) -> None:
        self.dimension, self.fingerprint = dimension, fingerprint
        self.videos = 0
        """Number of videos added; the same in all processes."""
        self._share = share
        self._shards: list[Any] = []
        self._vectors = 0
        self._closed = 0
        self._waiting: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []

    def add(self, unit_TD: NDArray[np.float32], count_N: Sequence[int] | NDArray[np.int64]) -> None:
        """Add the next N videos: their unit vectors, concatenated, and the number of vectors of each video."""
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
        """Turn the videos added since the last shard into a shard. Call it after the last video, before `search` or `save`."""
        if self._waiting:
            vectors, videos = (np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
            self._shards.append(_make_shard(vectors, videos))
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
        return nearest([_search_shard(shard, query_AD, k) for shard in self._shards], len(query_AD), k)

    def save(self, folder: Path) -> None:
        """Write the index into a folder. index.json is written last; a folder without it holds no index."""
        import faiss

        assert not self._vectors, "the last shard is not closed"
        assert self._share == (0, 1), "one process's share of an index cannot be saved"
        make_folder(folder, "--index")
        (folder / INDEX_FILE).unlink(missing_ok=True)
        for number, shard in enumerate(self._shards):
            write_sealed(folder / _shard_file(number), bytes(SEAL_BYTES) + faiss.serialize_index(shard).tobytes())
        head = {"format": FORMAT, "fingerprint": self.fingerprint, "dimension": self.dimension, "videos": self.videos}
        head |= {"shards": len(self._shards)}
        write_json(folder / INDEX_FILE, head | {"sha256": _digest(head)})

    @classmethod
    def load(cls, folder: Path, fingerprint: str) -> "VideoIndex":
        """Read the index in a folder. Raises UserError if any byte is damaged, or if the index has another fingerprint."""
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
        """Bytes of the vectors and their video numbers, without FAISS's lookup tables."""
        return sum(shard.ntotal * (8 + (4 if _is_exact(shard) else 1) * self.dimension) for shard in self._shards)


def nearest(found: Sequence[Found], queries: int, k: int) -> Found:
    """Merge the results of shards or processes, which have no video in common; equally near videos come in the order added."""
    video_AM = np.concatenate([np.full((queries, k), -1), *(videos for videos, _ in found)], axis=1)
    near_AM = np.concatenate([np.full((queries, k), -np.inf, dtype=np.float32), *(near for _, near in found)], axis=1)
    order_AK = np.lexsort((video_AM, -near_AM))[:, :k]
    return np.take_along_axis(video_AM, order_AK, axis=1), np.take_along_axis(near_AM, order_AK, axis=1)


def _digest(head: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode()).hexdigest()


def _shard_file(number: int) -> str:
    return f"shard-{number}.faiss"


def _make_shard(unit_TD: NDArray[np.float32], video_T: NDArray[np.int64]) -> Any:
    """A FAISS index whose vector ids are video numbers."""
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
    """The k videos of a shard nearest to each query.

    FAISS returns vectors, and several may belong to one video. Queries that have found too few videos ask again for twice as many
    vectors.
    """
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
            # Vectors come nearest first, so the first vector of a video is its nearest.
            firsts = np.sort(np.unique(video_T, return_index=True)[1])
            firsts = firsts[video_T[firsts] >= 0][:k]
            video_AK[row, : len(firsts)], near_AK[row, : len(firsts)] = video_T[firsts], near_T[firsts]
        if vectors == shard.ntotal and (share == 1.0 or wide is None):
            break
        lacking = lacking[video_AK[lacking, -1] < 0]
        vectors, share = 2 * vectors, 2 * share
    return video_AK, near_AK
