"""Synthetic caches for the benchmarks: `write_cache` writes given entries; `make_cache` imitates the videos of a real cache.

`make_cache` draws a frame as mean + video component + frame component. Both components are normal, with the covariances between and
within the videos of the real cache. The frame is then scaled to the norm of a random real frame. The real test videos and their
captions are part of the synthetic cache.

Shape suffixes: N videos, T frames of several videos together, F frames of one, D joint dimension.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.base.progress import Progress
from data.cache import ClipParts, FeatureCache, TextEntry, VideoEntry
from data.cache.extraction import Extraction
from train_head.scoring.splits import Split, load_split

VIDEOS_A_PART, TEXTS_A_PART = 1024, 16_384
FRAMES = 10
"""Frames of a synthetic video."""

Floats = NDArray[np.float64]
Entry = TypeVar("Entry")


def write_cache(
    path: Path,
    settings: Mapping[str, Any],
    clip: ClipParts,
    videos: Iterable[VideoEntry],
    texts: Iterable[TextEntry] = (),
    extraction: Extraction | None = None,
    *,
    count: int,
    quiet: bool = False,
) -> FeatureCache:
    """Write a new cache of `count` videos and of texts, in parts like those of an extraction; holds one part in memory at a time."""
    cache = FeatureCache.create(path, settings, clip, provenance={}, extraction=extraction)
    with Progress(f"cache of {count:,}", count, "videos", quiet) as progress:
        for some_videos in _parts(videos, VIDEOS_A_PART):
            cache.write_videos(some_videos)
            progress.update(len(some_videos))
    for some_texts in _parts(texts, TEXTS_A_PART):
        cache.write_texts(some_texts)
    return cache


def random_features(random: np.random.Generator, *shape: int, norm: float = 10.0) -> NDArray[np.float32]:
    """Normal vectors along the last dimension of `shape`, with norms close to `norm`; CLIP's features have norms near 10."""
    return random.standard_normal(shape, dtype=np.float32) * np.float32(norm * shape[-1] ** -0.5)


def seconds_of(frames: int) -> Floats:
    """Times of frames sampled at 1 fps: 0, 1, 2, ..."""
    return np.arange(frames, dtype=np.float64)


def _parts(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while part := list(islice(rest, size)):
        yield part


@dataclass(frozen=True)
class FrameDistribution:
    """The distribution that synthetic frames are drawn from."""

    mean_D: Floats
    between_DD: Floats
    """Square root of the covariance of video means."""
    within_DD: Floats
    """Square root of the covariance of frames around the mean of their video."""
    norm_T: Floats
    """Norms of the real frames."""

    @classmethod
    def of(cls, split: Split) -> "FrameDistribution":
        """Estimate the distribution from the frames of a split."""
        videos = [split.videos.frames.gather([i])[0].double().numpy() for i in range(len(split.videos.ids))]
        frame_TD, mean_ND = np.concatenate(videos), np.stack([frame_FD.mean(axis=0) for frame_FD in videos])
        alone_TD = np.concatenate([frame_FD - frame_FD.mean(axis=0) for frame_FD in videos])
        norm_T = np.linalg.norm(frame_TD, axis=1)
        return cls(frame_TD.mean(axis=0), _root(np.cov(mean_ND.T)), _root(alone_TD.T @ alone_TD / len(alone_TD)), norm_T)

    def draw(self, videos: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Draw the frames [N, F, D] of N = `videos` videos."""
        dimension = len(self.mean_D)
        common_ND = random.standard_normal((videos, dimension)) @ self.between_DD
        frame_NFD = self.mean_D + common_ND[:, None] + random.standard_normal((videos, FRAMES, dimension)) @ self.within_DD
        norm_NF1 = random.choice(self.norm_T, (videos, FRAMES, 1))
        drawn_NFD: NDArray[np.float32] = (frame_NFD * (norm_NF1 / np.linalg.norm(frame_NFD, axis=2, keepdims=True))).astype(np.float32)
        return drawn_NFD


def _root(covariance_DD: Floats) -> Floats:
    """The symmetric square root of a covariance matrix, which may be singular."""
    value_D, vector_DD = np.linalg.eigh(covariance_DD)
    root_DD: Floats = (vector_DD * np.sqrt(value_D.clip(min=0))) @ vector_DD.T
    return root_DD


def relative_errors(frames: FrameDistribution, random: np.random.Generator) -> dict[str, float]:
    """Relative errors of drawn frames against the real ones: of the mean, of the covariance, and of the mean norm."""
    frame_TD = frames.draw(20_000, random).reshape(-1, len(frames.mean_D)).astype(np.float64)
    real_DD = frames.between_DD @ frames.between_DD + frames.within_DD @ frames.within_DD
    return {
        "mean": float(np.linalg.norm(frame_TD.mean(axis=0) - frames.mean_D) / np.linalg.norm(frames.mean_D)),
        "covariance": float(np.linalg.norm(np.cov(frame_TD.T) - real_DD) / np.linalg.norm(real_DD)),
        "norm": float(np.linalg.norm(frame_TD, axis=1).mean() / frames.norm_T.mean() - 1),
    }


def make_cache(path: Path, real: FeatureCache, videos: int, captions: int | None = None, quiet: bool = False) -> None:
    """Write a cache of N = `videos` videos, the real test videos first.

    It has the real test captions or, if `captions` is given, that many captions drawn from them, each for another video.
    """
    split = load_split(real, "test", None, 2**33)
    distribution, random = FrameDistribution.of(split), np.random.default_rng(0)
    names = [*split.videos.ids, *(f"synthetic{i}" for i in range(videos))][:videos]
    owners, texts = ([names[b] for b in split.answers if b < videos], list(split.texts.texts))
    keep = [a for a, b in enumerate(split.answers) if b < videos]
    if captions is not None:
        keep = random.integers(len(split.texts.texts), size=captions).tolist()
        owners = names[:captions]
    labels = [texts[a] if captions is None else f"{texts[a]} ({i})" for i, a in enumerate(keep)]
    words_RD, length_A = split.texts.words.gather(keep)
    sentence_AD, _ = split.texts.sentences.gather(keep)
    parts = np.split(words_RD.numpy(), np.cumsum(length_A.numpy())[:-1])
    entries = zip(labels, parts, sentence_AD.numpy(), strict=True)
    unique = [TextEntry(label, words_TD, sentence_D) for label, words_TD, sentence_D in {e[0]: e for e in entries}.values()]

    def drawn() -> Iterator[VideoEntry]:
        for first in range(0, videos, VIDEOS_A_PART):
            some = names[first : first + VIDEOS_A_PART]
            drawn_NFD = distribution.draw(len(some), random)
            yield from (_entry(name, first + i, split, drawn_NFD[i]) for i, name in enumerate(some))

    cache = write_cache(path, real.settings, real.clip_parts(), drawn(), unique, real.extraction, count=videos, quiet=quiet)
    table = pd.DataFrame({"video_id": owners, "caption": labels, "split": "test"})
    cache.write_table("scale", table)


def _entry(name: str, number: int, split: Split, drawn_FD: NDArray[np.float32]) -> VideoEntry:
    frame_FD = split.videos.frames.gather([number])[0].numpy() if number < len(split.videos.ids) else drawn_FD
    return VideoEntry(name, frame_FD, seconds_of(len(frame_FD)), file_size=1, file_mtime_ns=1)
