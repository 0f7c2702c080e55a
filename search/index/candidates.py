"""Finds candidates for exact re-ranking: the videos nearest to a sentence, by best or mean frame, or also to its content words.

The index holds plain CLIP features, so one index serves every head that is trained on the cache.

Shape suffixes: N videos, T frames of several videos together, A texts, Q queries of several texts, K candidates, D joint dimension.
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
from search.index.engine import Engine, nearest
from search.index.saved import INDEX_FILE, load_index, save_index
from search.index.vectors import VideoIndex
from search.index.words import ContentWords, join_lists

Vectors = Literal["frames", "pooled"]
"""What an index holds."""
FoundBy = Literal["frames", "pooled", "words"]
"""How candidates are found. words: in the index of frames, by the sentence and its content words."""
VIDEOS_AT_ONCE = 1024
TEXTS_AT_ONCE = 1024
TEXTS_BY_WORDS_AT_ONCE = 128
"""A text of a dozen words is as many queries."""


def candidate_index(
    cache: FeatureCache,
    videos: VideoFeatures,
    vectors: Vectors,
    folder: Path | None = None,
    processes: ProcessGroup | None = None,
    quiet: bool = True,
) -> VideoIndex:
    """Build the index of these videos, or read it from `folder` if it is there. Video i of the index is `videos.ids[i]`.

    A new index is saved in `folder`. With several processes, each builds its share of the index, and nothing is saved; see
    `find_candidates`. Raises UserError if the folder holds an index of another cache, of other videos or of other vectors.
    """
    fingerprint = index_fingerprint(cache, videos, vectors)
    if folder is not None and (folder / INDEX_FILE).exists():
        return load_index(folder, fingerprint)
    group = processes or ProcessGroup()
    index = VideoIndex(videos.frames.dimension, (group.rank, group.world_size))
    add_videos(index, np.arange(len(videos.ids)), videos, vectors, quiet)
    index.close_shard()
    if folder is not None:
        assert group.world_size == 1, "one process's share of an index cannot be saved"
        save_index(index, folder, fingerprint, video_keys(cache, videos))
    return index


def index_for(found_by: FoundBy) -> Vectors:
    """The vectors of the index that candidates are found in."""
    return "frames" if found_by == "words" else found_by


def add_videos(index: VideoIndex, numbers: NDArray[np.int64], videos: VideoFeatures, vectors: Vectors, quiet: bool) -> None:
    """Add the videos with these ascending numbers."""
    with Progress(f"index of {vectors}", len(numbers), "videos", quiet) as progress:
        for first in range(0, len(numbers), VIDEOS_AT_ONCE):
            some = numbers[first : first + VIDEOS_AT_ONCE]
            index.add(*unit_vectors(videos.frames, some, vectors), some)
            progress.update(len(some))


def video_keys(cache: FeatureCache, videos: VideoFeatures) -> list[str]:
    """For each video, what its vectors depend on: its id, when its features were written, the number of frames, the cache's settings."""
    frames_N = videos.frames.length_N.tolist()
    return [f"{cache.digest[:16]}:{cache.written_ns(name)}:{frames}:{name}" for name, frames in zip(videos.ids, frames_N, strict=True)]


def require_index(folder: Path | None, found_by: Sequence[FoundBy]) -> None:
    """Raise UserError if an index has to be written into FOLDER/frames or FOLDER/pooled and cannot be."""
    folders = [] if folder is None else [folder / index_for(one) for one in found_by]
    for one in folders:
        if not (one / INDEX_FILE).exists():
            require_writable_folder(one, "--index")


def index_fingerprint(cache: FeatureCache, videos: VideoFeatures, vectors: Vectors) -> str:
    """SHA-256 of everything that determines the index: the features, the number of frames of each video, the kind of vectors."""
    frames = hashlib.sha256(videos.frames.length_N.tobytes()).hexdigest()
    return hashlib.sha256(json.dumps([cache.fingerprint(videos.ids), frames, vectors]).encode()).hexdigest()


def unit_vectors(frames: Ragged, videos: NDArray[np.int64], vectors: Vectors) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors [T, D] of these videos, concatenated, and their number for each video [N].

    "frames": every frame, normalized. "pooled": one vector per video, the normalized mean of its normalized frames. A zero frame
    stays zero.
    """
    frame_TD, length_N = frames.gather(videos)
    unit_TD = normalize(frame_TD, dim=-1)
    if vectors == "frames":
        return unit_TD.numpy(), length_N.numpy()
    video_T = torch.repeat_interleave(torch.arange(len(length_N)), length_N)
    pooled_ND = unit_TD.new_zeros(len(length_N), unit_TD.shape[1]).index_add_(0, video_T, unit_TD)
    return normalize(pooled_ND, dim=-1).numpy(), np.ones(len(length_N), dtype=np.int64)


def find_candidates(
    index: Engine, texts: TextFeatures, k: int, processes: ProcessGroup | None = None, words: ContentWords | None = None
) -> Tensor:
    """The indices [A, K] of the k videos nearest to each text, nearest first, over the index shares of all processes.

    With `words`, the text's content words take part: see `search.index.words`. Raises UserError if there are fewer than k videos.
    """
    check_candidates(k, index.videos)
    count, at_once = len(texts.texts), TEXTS_AT_ONCE if words is None else TEXTS_BY_WORDS_AT_ONCE
    blocks = [np.arange(first, min(first + at_once, count)) for first in range(0, count, at_once)]
    return torch.from_numpy(np.concatenate([candidates_of(index, texts, some, k, processes, words) for some in blocks]))


def candidates_of(
    index: Engine,
    texts: TextFeatures,
    some: Sequence[int] | NDArray[np.int64],
    k: int,
    processes: ProcessGroup | None = None,
    words: ContentWords | None = None,
) -> NDArray[np.int64]:
    """`find_candidates` of the texts at these indices, searched for together."""
    if words is None:
        query_QD, count_A = normalize(texts.sentences.gather(some)[0], dim=-1).numpy(), None
    else:
        query_QD, count_A = words.queries(texts, some)
    group = processes or ProcessGroup()
    video_QK, near_QK = index.search(query_QD, k)
    shares = zip(group.gather(torch.from_numpy(video_QK)), group.gather(torch.from_numpy(near_QK)), strict=True)
    video_QK, _ = nearest([(videos.numpy(), near.numpy()) for videos, near in shares], len(query_QD), k)
    return video_QK if count_A is None else join_lists(video_QK, count_A)


def check_candidates(k: int, videos: int, texts: int = 0) -> None:
    """Raise UserError unless k is from 1 to the number of videos, or of texts if they are more."""
    if not 1 <= k <= max(videos, texts):
        named = f"{videos:,} videos and {texts:,} texts" if texts else f"{videos:,} videos"
        raise UserError(f"--candidates {k}: the gallery has {named}: use 1 to {max(videos, texts)}")
