"""What codes of few bytes lose: the recall of the exact nearest videos among the candidates, for indexes that differ only in their codes.

Shape suffixes: N videos, T frames, A queries, K nearest videos, M candidates, D dimension.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.nn.functional import normalize

from benchmarks.engines.world import QUERIES, query_names, recall
from benchmarks.measure import Row
from data.cache import FeatureCache
from search.index.candidates import unit_vectors
from search.index.vectors import Shard, VideoIndex
from train_head.scoring.splits import load_split

LADDER = (100, 200, 500, 1000)
"""Numbers of candidates."""
NEAREST = (10, 100)
LISTS_FOR = 1024
"""An index has a list for this many vectors."""
TRAINED_ON = 2**16
"""Vectors that lists and codes are trained on."""

ROTATED_ON, ROTATIONS = 2**14, 10
"""Vectors and steps that a rotation is trained on; FAISS's 50 steps take minutes."""


class Frames(NamedTuple):
    """Unit vectors, the number of each vector's video, and queries."""

    unit_TD: NDArray[np.float32]
    video_T: NDArray[np.int64]
    query_AD: NDArray[np.float32]


def synthetic_frames(path: Path) -> Frames:
    """All frames of a synthetic gallery, and its queries."""
    cache = FeatureCache(path)
    sentence_AD = cache.texts(query_names(), 2**30).sentences.gather(np.arange(QUERIES))[0]
    return _frames(cache, normalize(sentence_AD, dim=-1).numpy())


def real_frames(path: Path) -> Frames:
    """All frames of a cache, and captions of its test split, evenly spaced."""
    cache = FeatureCache(path)
    texts = load_split(cache, "test", None, 2**30).texts
    chosen_A = np.linspace(0, len(texts.texts) - 1, QUERIES).astype(np.int64)
    return _frames(cache, normalize(texts.sentences.gather(chosen_A)[0], dim=-1).numpy())


def code_recall(frames_of: Callable[[Path], Frames], path: Path) -> Row:
    """For every code, its bytes and the recall of the exact nearest videos. Call this in a separate process."""
    frames = frames_of(path)
    dimension = frames.unit_TD.shape[1]
    exact_AK = _search(_exhaustive(frames), frames.query_AD, max(NEAREST))
    row: Row = {"vectors": len(frames.unit_TD), "dimension": dimension}
    for name, code_bytes in _codes(dimension).items():
        turned, index = _coded(frames, name)
        found_AM = _search(index, turned.query_AD, max(LADDER))
        row[f"{name}: bytes"] = code_bytes
        for k in NEAREST:
            for m in LADDER:
                row[f"{name}: recall of {k} with {m}"] = recall(found_AM[:, :m], exact_AK[:, :k])
    return row


def _codes(dimension: int) -> dict[str, int]:
    """Codes by FAISS's name, with their bytes: 64, and a byte for 8 numbers, which is the same at 512 numbers."""
    codes = {"Flat": 4 * dimension, "SQ8": dimension}
    for size in sorted({64, dimension // 8}):
        if dimension % size == 0:
            codes |= {f"PQ{size}": size, f"OPQ{size},PQ{size}": size}
    return codes


def _frames(cache: FeatureCache, query_AD: NDArray[np.float32]) -> Frames:
    videos = cache.videos(sorted(cache.names("videos")), 0)
    unit_TD, count_N = unit_vectors(videos.frames, np.arange(len(videos.ids)), "frames")
    return Frames(unit_TD, np.repeat(np.arange(len(videos.ids)), count_N), query_AD)


def _exhaustive(frames: Frames) -> Any:
    import faiss

    index = faiss.IndexIDMap(faiss.IndexFlatIP(frames.unit_TD.shape[1]))
    index.add_with_ids(frames.unit_TD, frames.video_T)
    return index


def _coded(frames: Frames, name: str) -> tuple[Frames, Any]:
    """An index with inverted lists and this code, of the frames, or of rotated frames. Inner products do not change by a rotation."""
    import faiss

    *rotation, code = name.split(",")
    dimension = frames.unit_TD.shape[1]
    trained_TD = frames.unit_TD[np.sort(np.random.default_rng(0).permutation(len(frames.unit_TD))[:TRAINED_ON])]
    if rotation:
        matrix = faiss.OPQMatrix(dimension, int(code.removeprefix("PQ")))
        matrix.niter, matrix.niter_pq_0 = ROTATIONS, ROTATIONS
        matrix.train(trained_TD[:ROTATED_ON])
        frames = Frames(matrix.apply(frames.unit_TD), frames.video_T, matrix.apply(frames.query_AD))
        trained_TD = matrix.apply(trained_TD)
    index = faiss.index_factory(dimension, f"IVF{max(1, len(frames.unit_TD) // LISTS_FOR)},{code}", faiss.METRIC_INNER_PRODUCT)
    index.train(trained_TD)
    index.add_with_ids(frames.unit_TD, frames.video_T)
    return frames, index


def _search(vectors: Any, query_AD: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k videos found for each query, as a search finds them."""
    videos = int(vectors.ntotal)
    index = VideoIndex(vectors.d, shards=[Shard(vectors, np.arange(videos))], videos=videos)
    return index.search(query_AD, k)[0]
