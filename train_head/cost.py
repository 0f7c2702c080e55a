"""Says what training costs before it starts, for a head whose pairs are expensive."""

import time

import numpy as np
import torch

from data.base.progress import duration, say
from data.compute.device import synchronize
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.scoring.splits import Split

EXPENSIVE_PAIR, EXPENSIVE_STEP = 1e7, 1e11
"""FLOPs of a pair, and of the pairs of a step, from which the cost is said. A core does EXPENSIVE_STEP in a few seconds, and heads that
share their work between pairs stay below EXPENSIVE_PAIR."""
_TEXTS = 2
"""Texts to measure with: the time of a step is proportional to their number."""


def say_cost(head: Head, train: Split, select: Split, batch: int, processes: int = 1) -> None:
    """Say what a step on `batch` captions and a validation cost, in one line on stderr; nothing for a head whose steps are cheap.

    Times are those of a few texts with the videos of a batch, scored here and now. `processes`: how many share the texts of a step.
    """
    pair, step_pairs = _flops(head, train), batch**2
    if pair < EXPENSIVE_PAIR or pair * step_pairs < EXPENSIVE_STEP:
        return
    texts, videos = len(select.answers), len(select.videos.ids)
    forward, both = _seconds(head, train, batch)
    say(
        f"head {head.name}: a step scores {batch:,} x {batch:,} pairs, {pair * step_pairs / 1e12:.2g} TFLOP forward, and takes about "
        f"{duration(both * step_pairs / processes)} here; a validation scores {texts:,} x {videos:,}, "
        f"{_flops(head, select) * texts * videos / 1e12:.2g} TFLOP, in about {duration(forward * texts * videos)}: "
        "a smaller --batch-size or --max-frames costs less"
    )


def _flops(head: Head, split: Split) -> float:
    """FLOPs of a pair of a text and a video of average length."""
    words, frames = (np.array(features.length_N.mean(), dtype=np.float64) for features in (split.texts.words, split.videos.frames))
    return float(head.pair_flops(words, frames))


def _seconds(head: Head, split: Split, videos: int) -> tuple[float, float]:
    """Seconds a pair: forward, and forward and backward."""
    device = head.logit_scale.device
    texts, gallery = TextBatch.gather(split.texts, range(_TEXTS), device), VideoBatch.gather(split.videos, range(videos), device)
    with torch.enable_grad():
        synchronize(device)
        start = time.perf_counter()
        scores_SAB = head.train().scores(head.encode_texts(texts), head.encode_videos(gallery))
        synchronize(device)
        forward = time.perf_counter() - start
        scores_SAB.sum().backward()
        synchronize(device)
    both = time.perf_counter() - start
    head.zero_grad()
    return forward / (_TEXTS * videos), both / (_TEXTS * videos)
