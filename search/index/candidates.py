"""Candidates for exact re-ranking: the videos nearest to a sentence by frame vectors (the best frame counts), or by pooled ones.

They are made from the features as CLIP gives them, so that one index serves every head that is trained on a cache.

Shape suffixes: N videos, T frames of several videos together, A texts, K candidates, D joint dimension.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from data.base.errors import UserError
from data.base.progress import Progress
from data.base.writable import require_writable_folder
from data.cache import FeatureCache
from data.cache.features import Ragged, TextFeatures, VideoFeatures
from data.compute.processes import ProcessGroup
from search.index.vectors import INDEX_FILE, VideoIndex, nearest

Vectors = Literal["frames", "pooled"]
VIDEOS_AT_ONCE = 1024
TEXTS_AT_ONCE = 1024


def candidate_index(
    cache: FeatureCache,
    videos: VideoFeatures,
    vectors: Vectors,
    folder: Path | None = None,
    processes: ProcessGroup | None = None,
    quiet: bool = True,
) -> VideoIndex:
    """The index of these videos; the number of a video in it is its place among them.

    With a folder it is read from there, or built and kept there. Of several processes each has its share of the index, which is not kept
    then: see `find_candidates`. Raises UserError where the folder holds an index of another cache, other videos or other vectors.
    """
    fingerprint = index_fingerprint(cache, videos, vectors)
    if folder is not None and (folder / INDEX_FILE).exists():
        return VideoIndex.load(folder, fingerprint)
    group = processes or ProcessGroup()
    index = VideoIndex(videos.frames.dimension, fingerprint, (group.rank, group.world_size))
    with Progress(f"index of {vectors}", len(videos.ids), "videos", quiet) as progress:
        for first in range(0, len(videos.ids), VIDEOS_AT_ONCE):
            some = np.arange(first, min(first + VIDEOS_AT_ONCE, len(videos.ids)))
            index.add(*unit_vectors(videos.frames, some, vectors))
            progress.update(len(some))
    index.close_shard()
    if folder is not None:
        index.save(folder)
    return index


def require_index(folder: Path | None, made_from: Sequence[Vectors]) -> None:
    """Raises UserError where an index would have to be kept in FOLDER/frames or FOLDER/pooled, and cannot be written there."""
    folders = [] if folder is None else [folder / vectors for vectors in made_from]
    for one in folders:
        if not (one / INDEX_FILE).exists():
            require_writable_folder(one, "--index")


def index_fingerprint(cache: FeatureCache, videos: VideoFeatures, vectors: Vectors) -> str:
    """SHA-256 over all that decides an index: the features of every video, how many frames of each, and which vectors."""
    frames = hashlib.sha256(videos.frames.length_N.tobytes()).hexdigest()
    return hashlib.sha256(json.dumps([cache.fingerprint(videos.ids), frames, vectors]).encode()).hexdigest()


def unit_vectors(frames: Ragged, videos: NDArray[np.int64], vectors: Vectors) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vectors of norm 1 of these videos, one video after the other, and how many each has: its frames, or one, their mean.

    Each frame has norm 1 in the mean. A frame of zeros stays as it is.
    """
    frame_TD, length_N = frames.gather(videos)
    unit_TD = normalize(frame_TD, dim=-1)
    if vectors == "frames":
        return unit_TD.numpy(), length_N.numpy()
    video_T = torch.repeat_interleave(torch.arange(len(length_N)), length_N)
    pooled_ND = unit_TD.new_zeros(len(length_N), unit_TD.shape[1]).index_add_(0, video_T, unit_TD)
    return normalize(pooled_ND, dim=-1).numpy(), np.ones(len(length_N), dtype=np.int64)


def find_candidates(index: VideoIndex, texts: TextFeatures, k: int, processes: ProcessGroup | None = None) -> Tensor:
    """The k candidates [A, K] of every text, nearest first, from the shares of all processes.

    Raises UserError where there are fewer than k videos.
    """
    check_candidates(k, index.videos)
    group = processes or ProcessGroup()
    found = []
    for first in range(0, len(texts.texts), TEXTS_AT_ONCE):
        sentence_AD, _ = texts.sentences.gather(np.arange(first, min(first + TEXTS_AT_ONCE, len(texts.texts))))
        video_AK, near_AK = index.search(normalize(sentence_AD, dim=-1).numpy(), k)
        parts = zip(group.gather(torch.from_numpy(video_AK)), group.gather(torch.from_numpy(near_AK)), strict=True)
        found.append(nearest([(videos.numpy(), near.numpy()) for videos, near in parts], len(sentence_AD), k)[0])
    return torch.from_numpy(np.concatenate(found))


def check_candidates(k: int, videos: int) -> None:
    """Raises UserError where so many candidates cannot be had."""
    if not 1 <= k <= videos:
        raise UserError(f"--candidates {k}: the gallery has {videos:,} videos: use 1 to {videos}")
