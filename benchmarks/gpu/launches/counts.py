"""What a training step and a block of scores launch on a CUDA device, and where they wait for it, counted without one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.launches.fake_cuda import CUDA, Counts, fake_cuda
from data.cache.features import Ragged, TextFeatures, VideoFeatures
from data.metrics import RankCounter
from train_head.heads import HEADS, Head, HeadConfig, PairwiseHead, make_head
from train_head.options import TrainOptions
from train_head.scoring.pairs import RankedScores, score_all_pairs
from train_head.scoring.splits import Split
from train_head.training.trainer import Trainer

BATCH, TEXTS, VIDEOS = 128, 200, 200
"""Captions of a step, and the sides of a score matrix."""
WORDS, FRAMES, PATCHES, DIMENSION = 12, 8, 4, 32
"""The longest text and video, patch tokens of a frame, and the width of features. Small: neither count depends on the width."""


def random_head(name: str, temporal: str = "none", device: torch.device = CUDA) -> Head:
    """An untrained head on the device. On CUDA, call it inside `fake_cuda`."""
    kind = HEADS[name]
    config = HeadConfig(
        DIMENSION,
        WORDS,
        100.0,
        max_frames=FRAMES,
        patches=PATCHES,
        temporal="none" if kind.OWN_BLOCKS else temporal,
        temporal_positions=kind.block_positions(FRAMES),
        temporal_heads=2,
    )
    torch.manual_seed(0)
    return make_head(name, config).to(device)


def random_split(texts: int, videos: int, seed: int = 0) -> Split:
    """Texts and videos of any length up to WORDS and FRAMES, in memory; text i belongs to video i modulo the number of videos."""
    random = np.random.default_rng(seed)

    def ragged(lengths: Sequence[int] | np.ndarray, *width: int) -> Ragged:
        values = random.standard_normal((int(np.sum(lengths)), *width), dtype=np.float32)
        return Ragged.in_memory(values, np.cumsum([0, *lengths]))

    frames = random.integers(1, FRAMES + 1, videos)
    return Split(
        name="random",
        preset="random",
        sources=("random",),
        texts=TextFeatures(
            [f"text {i}" for i in range(texts)],
            words=ragged(random.integers(2, WORDS + 1, texts), DIMENSION),
            sentences=ragged(np.ones(texts, dtype=np.int64), DIMENSION),
        ),
        videos=VideoFeatures(
            [f"video {i}" for i in range(videos)],
            frames=ragged(frames, DIMENSION),
            seconds=[np.arange(count, dtype=np.float64) for count in frames],
            patches=ragged(frames, PATCHES, DIMENSION),
        ),
        answers=np.arange(texts) % videos,
        counts={},
    )


def count_step(name: str, temporal: str = "none", batch: int = BATCH, free_bytes: int = 2**36) -> Counts:
    """Of a training step after the first."""
    with fake_cuda(free_bytes) as counts:
        options = TrainOptions(Path("cache"), Path("run"), batch_size=batch, optimizer="adamw", quiet=True)
        trainer = Trainer(random_head(name, temporal).train(), options, random_split(2 * batch, 2 * batch))
        for step in range(2):
            counts.clear()
            trainer.step(np.arange(batch) + step)
    return counts


def count_scores(name: str, texts: int = TEXTS, videos: int = VIDEOS, free_bytes: int = 2**36) -> Counts:
    """Of a score matrix with its ranks."""
    with fake_cuda(free_bytes) as counts:
        head, split = random_head(name), random_split(texts, videos)
        counter = RankCounter(split.answers, videos)
        counts.clear()
        score_all_pairs(head, split.texts, split.videos, split.answers, [RankedScores(counter)], 2**30)
        counter.metrics()
    return counts


def every_count() -> dict[str, dict[str, dict[str, int]]]:
    """The counts of every head, by its name and the work. Heads that score pair by pair have small sides."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, kind in HEADS.items():
        batch, side = (16, 20) if issubclass(kind, PairwiseHead) else (BATCH, TEXTS)
        found[name] = {}
        if not issubclass(kind, PairwiseHead) or not kind.HARD_NEGATIVES_ONLY:
            found[name][f"step of {batch}"] = count_step(name, batch=batch).figures()
        found[name][f"{side} x {side} scores"] = count_scores(name, side, side).figures()
    return found
