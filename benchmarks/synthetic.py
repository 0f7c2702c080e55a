"""Caches of any size whose synthetic videos are like those of a real cache: `benchmarks.scale` measures on them.

A frame is drawn as mean + (what its video has in common) + (what it has alone), both normal with the covariances seen between and
within the videos of the real cache, and stretched to the norm of one of its frames. The real test videos are among the synthetic ones,
with their captions.

Shape suffixes: N videos, T frames of several videos together, F frames of one, D joint dimension.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.base.progress import Progress
from data.cache import FeatureCache, TextEntry, VideoEntry
from train_head.scoring.splits import Split, load_split

VIDEOS_A_PART = 1024
FRAMES = 10
"""Frames of a synthetic video."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Likeness:
    """What synthetic frames are drawn from."""

    mean_D: Floats
    between_DD: Floats
    """Root of the covariance of the means of videos."""
    within_DD: Floats
    """Root of the covariance of frames about the mean of their video."""
    norm_T: Floats

    @classmethod
    def of(cls, split: Split) -> "Likeness":
        """The statistics of the frames of a split."""
        videos = [split.videos.frames.gather([i])[0].double().numpy() for i in range(len(split.videos.ids))]
        frame_TD, mean_ND = np.concatenate(videos), np.stack([frame_FD.mean(axis=0) for frame_FD in videos])
        alone_TD = np.concatenate([frame_FD - frame_FD.mean(axis=0) for frame_FD in videos])
        norm_T = np.linalg.norm(frame_TD, axis=1)
        return cls(frame_TD.mean(axis=0), _root(np.cov(mean_ND.T)), _root(alone_TD.T @ alone_TD / len(alone_TD)), norm_T)

    def draw(self, videos: int, random: np.random.Generator) -> NDArray[np.float32]:
        """The frames [N, F, D] of so many videos."""
        dimension = len(self.mean_D)
        common_ND = random.standard_normal((videos, dimension)) @ self.between_DD
        frame_NFD = self.mean_D + common_ND[:, None] + random.standard_normal((videos, FRAMES, dimension)) @ self.within_DD
        norm_NF1 = random.choice(self.norm_T, (videos, FRAMES, 1))
        drawn_NFD: NDArray[np.float32] = (frame_NFD * (norm_NF1 / np.linalg.norm(frame_NFD, axis=2, keepdims=True))).astype(np.float32)
        return drawn_NFD


def _root(covariance_DD: Floats) -> Floats:
    """The symmetric root of a covariance, which may lack directions."""
    value_D, vector_DD = np.linalg.eigh(covariance_DD)
    root_DD: Floats = (vector_DD * np.sqrt(value_D.clip(min=0))) @ vector_DD.T
    return root_DD


def differences(likeness: Likeness, random: np.random.Generator) -> dict[str, float]:
    """How far frames drawn are from the real ones: mean and covariance as shares of the real ones' norms, and mean norm as a share."""
    frame_TD = likeness.draw(20_000, random).reshape(-1, len(likeness.mean_D)).astype(np.float64)
    real_DD = likeness.between_DD @ likeness.between_DD + likeness.within_DD @ likeness.within_DD
    return {
        "mean": float(np.linalg.norm(frame_TD.mean(axis=0) - likeness.mean_D) / np.linalg.norm(likeness.mean_D)),
        "covariance": float(np.linalg.norm(np.cov(frame_TD.T) - real_DD) / np.linalg.norm(real_DD)),
        "norm": float(np.linalg.norm(frame_TD, axis=1).mean() / likeness.norm_T.mean() - 1),
    }


def make_cache(path: Path, real: FeatureCache, videos: int, captions: int | None = None, quiet: bool = False) -> None:
    """A cache of so many videos, the real test videos first; with the real test captions, or so many, drawn from them, a video each."""
    split = load_split(real, "test", None, 2**33)
    likeness, random = Likeness.of(split), np.random.default_rng(0)
    cache = FeatureCache.create(path, real.settings, real.clip_parts(), real.provenance, extraction=real.extraction)
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
    cache.write_texts([TextEntry(label, words_TD, sentence_D) for label, words_TD, sentence_D in {e[0]: e for e in entries}.values()])
    with Progress(f"cache of {videos:,}", videos, "videos", quiet) as progress:
        for first in range(0, videos, VIDEOS_A_PART):
            some = names[first : first + VIDEOS_A_PART]
            drawn_NFD = likeness.draw(len(some), random)
            cache.write_videos([_entry(name, first + i, split, drawn_NFD[i]) for i, name in enumerate(some)])
            progress.update(len(some))
    table = pd.DataFrame({"video_id": owners, "caption": labels, "split": "test"})
    cache.write_table("scale", table)


def _entry(name: str, number: int, split: Split, drawn_FD: NDArray[np.float32]) -> VideoEntry:
    frame_FD = split.videos.frames.gather([number])[0].numpy() if number < len(split.videos.ids) else drawn_FD
    return VideoEntry(name, frame_FD, np.arange(len(frame_FD), dtype=np.float64), file_size=1, file_mtime_ns=1)
