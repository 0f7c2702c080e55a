"""The galleries of the benchmark of engines: caches of 512 numbers a frame, spread like those of a real cache of fewer.

A frame is a real video's mean plus another real video's deviation from its mean, both with normal noise (a smoothed bootstrap), so that
vectors form clusters as the real ones do. It is turned into 512 numbers by an isometry: vectors keep their angles. The alternative are
normal vectors, which have no clusters: the worst case for inverted lists. Their covariances between and within videos have the real
eigenvalues, interpolated between ranks to 512 of them. A query is a frame of a video that the gallery does not have.

Shape suffixes: N videos, T frames of several videos together, F frames of one, A queries, K nearest videos, D dimension, E after the
isometry.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.nn.functional import normalize

from benchmarks.synthetic import FRAMES, VIDEOS_A_PART, Floats, FrameDistribution, random_features, seconds_of, write_cache
from data.cache import ClipParts, FeatureCache, TextEntry, VideoEntry
from train_head.scoring.splits import Split

DIMENSION = 512
QUERIES = 200
WORDS = 12
"""Tokens of a query, including start and end: the mean of MSR-VTT's test captions."""
NOISE = 0.5
"""Standard deviation of the noise of resampled frames, in that of the real ones."""
ADDED = 0.01
"""New videos, as a fraction of those that were there."""
_SETTINGS = {"weights": "0" * 64, "max_words": 32, "max_frames": 10, "dtype": "float16", "dimension": DIMENSION}
_CLIP = ClipParts({}, 100.0, 8, "QuickGELU")


class Distribution(Protocol):
    """Something that frames are drawn from."""

    def draw(self, videos: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Draw the frames [N, F, D] of N = `videos` videos."""


@dataclass(frozen=True)
class Resampled:
    """Frames put together from those of real videos."""

    real: FrameDistribution
    mean_ND: Floats
    """Means of the real videos, without the mean of all."""
    frame_TD: Floats
    """The real frames, without the means of their videos."""
    first_N: NDArray[np.int64]
    length_N: NDArray[np.int64]
    isometry_DE: Floats

    @classmethod
    def of(cls, split: Split, dimension: int, random: np.random.Generator) -> "Resampled":
        """Resample the frames of a split, as vectors of `dimension` numbers."""
        real = FrameDistribution.of(split)
        frame_TD, length_N = (values.double().numpy() for values in split.videos.frames.gather(np.arange(len(split.videos.ids))))
        length_N = length_N.astype(np.int64)
        first_N = np.cumsum(length_N) - length_N
        mean_ND = np.add.reduceat(frame_TD, first_N) / length_N[:, None]
        frame_TD = frame_TD - np.repeat(mean_ND, length_N, axis=0)
        isometry_DE = np.linalg.qr(random.standard_normal((dimension, len(real.mean_D))))[0].T
        return cls(real, mean_ND - real.mean_D, frame_TD, first_N, length_N, isometry_DE)

    def draw(self, videos: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Draw the frames [N, F, E] of N = `videos` videos."""
        real, dimension = self.real, len(self.real.mean_D)
        common_ND = self.mean_ND[random.integers(len(self.mean_ND), size=videos)]
        common_ND = common_ND + NOISE * random.standard_normal((videos, dimension)) @ real.between_DD
        donor_N1 = random.integers(len(self.mean_ND), size=(videos, 1))
        chosen_NF = self.first_N[donor_N1] + (random.random((videos, FRAMES)) * self.length_N[donor_N1]).astype(np.int64)
        alone_NFD = self.frame_TD[chosen_NF] + NOISE * random.standard_normal((videos, FRAMES, dimension)) @ real.within_DD
        # The noise adds to the covariances, which this takes back.
        frame_NFD = real.mean_D + (common_ND[:, None] + alone_NFD) / np.sqrt(1 + NOISE**2)
        frame_NFD *= random.choice(real.norm_T, (videos, FRAMES, 1)) / np.linalg.norm(frame_NFD, axis=2, keepdims=True)
        drawn_NFE: NDArray[np.float32] = (frame_NFD @ self.isometry_DE).astype(np.float32)
        return drawn_NFE


def widened(real: FrameDistribution, dimension: int, random: np.random.Generator) -> FrameDistribution:
    """A distribution of `dimension` numbers whose covariances fall off like those of `real`."""
    direction_DD, _ = np.linalg.qr(random.standard_normal((dimension, dimension)))

    def root(real_DD: Floats) -> Floats:
        scale_D = np.sqrt(spectrum(real_DD, dimension)) * direction_DD
        made_DD: Floats = scale_D @ direction_DD.T
        return made_DD

    mean_D = random.standard_normal(dimension)
    mean_D *= np.linalg.norm(real.mean_D) / np.linalg.norm(mean_D)
    return FrameDistribution(mean_D, root(real.between_DD), root(real.within_DD), real.norm_T)


def spectrum(root_DD: Floats, dimension: int) -> Floats:
    """The eigenvalues of a covariance, given by its root, as if it had `dimension` of them: interpolated between ranks, with their sum."""
    value_D = np.sort(np.linalg.eigvalsh(root_DD) ** 2)[::-1]
    # The last eigenvalues of few videos are zero but for rounding, on either side of it.
    log_D = np.log(value_D.clip(min=1e-9 * value_D[0]))
    made_D: Floats = np.exp(np.interp(np.linspace(0, len(value_D) - 1, dimension), np.arange(len(value_D)), log_D))
    made_D *= value_D.sum() / made_D.sum()
    return made_D


def make_galleries(folder: Path, distribution: Distribution, videos: int) -> tuple[Path, Path]:
    """Write a cache of N = `videos` videos, and one that has more of them; the second shares the first one's files."""
    random = np.random.default_rng(0)
    first, grown = folder / "cache", folder / "grown"
    texts = (
        TextEntry(f"query {a}", random_features(random, WORDS, DIMENSION), frame_FD[0])
        for a, frame_FD in enumerate(distribution.draw(QUERIES, random))
    )
    write_cache(first, _SETTINGS, _CLIP, _videos("video", videos, distribution, random), texts, count=videos)
    shutil.copytree(first, grown, copy_function=os.link)
    cache, added = FeatureCache.create(grown, _SETTINGS, _CLIP), max(1, round(ADDED * videos))
    cache.write_videos(list(_videos("added", added, distribution, random)))
    return first, grown


def nearest_videos(cache: FeatureCache, k: int) -> NDArray[np.int64]:
    """The k videos [A, K] with the frames nearest to each query, from all frames; numbered as in a sorted gallery."""
    videos = cache.videos(sorted(cache.names("videos")), 0)
    query_AD = normalize(cache.texts(query_names(), 2**30).sentences.gather(np.arange(QUERIES))[0], dim=-1)
    number_AK = np.empty((QUERIES, 0), dtype=np.int64)
    near_AK = np.empty((QUERIES, 0), dtype=np.float32)
    for first in range(0, len(videos.ids), VIDEOS_A_PART):
        some_N = np.arange(first, min(first + VIDEOS_A_PART, len(videos.ids)))
        frame_TD, length_N = videos.frames.gather(some_N)
        near_AT = (query_AD @ normalize(frame_TD, dim=-1).T).numpy()
        best_AN = np.maximum.reduceat(near_AT, np.cumsum(length_N.numpy()) - length_N.numpy(), axis=1)
        near_AK = np.concatenate([near_AK, best_AN], axis=1)
        number_AK = np.concatenate([number_AK, np.broadcast_to(some_N, best_AN.shape)], axis=1)
        order_AK = np.argsort(-near_AK, axis=1, kind="stable")[:, :k]
        near_AK = np.take_along_axis(near_AK, order_AK, axis=1)
        number_AK = np.take_along_axis(number_AK, order_AK, axis=1)
    return number_AK


def query_names() -> list[str]:
    """The texts of the queries."""
    return [f"query {a}" for a in range(QUERIES)]


def recall(found_AM: NDArray[np.int64], exact_AK: NDArray[np.int64]) -> float:
    """The fraction of the exact videos that are among those found, averaged over queries."""
    return float(np.mean([np.isin(exact_K, found_M).mean() for found_M, exact_K in zip(found_AM, exact_AK, strict=True)]))


def _videos(prefix: str, videos: int, distribution: Distribution, random: np.random.Generator) -> Iterator[VideoEntry]:
    for first in range(0, videos, VIDEOS_A_PART):
        for i, frame_FD in enumerate(distribution.draw(min(VIDEOS_A_PART, videos - first), random), start=first):
            yield VideoEntry(f"{prefix}{i:07}", frame_FD, seconds_of(len(frame_FD)), file_size=1, file_mtime_ns=1)
