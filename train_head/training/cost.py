"""Says what a step of training costs before it starts, for a head whose pairs are expensive."""

import time

import torch

from data.base.progress import duration, say
from data.compute.device import synchronize
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.scoring.cost import flops_a_pair, work
from train_head.scoring.splits import Split

EXPENSIVE_PAIR, EXPENSIVE_STEP = 1e7, 1e11
"""FLOPs of a pair, and of the pairs of a step, from which the cost is said. A core does EXPENSIVE_STEP in a few seconds, and heads that
share their work between pairs stay below EXPENSIVE_PAIR."""
_TEXTS = 2
"""Texts to measure with: the time of a step is proportional to their number."""


def say_step_cost(head: Head, train: Split, batch: int, steps: int, processes: int = 1, pairs: int | None = None) -> None:
    """Say what a step on `batch` captions costs, in one line on stderr; nothing for a head whose steps are cheap.

    The time is that of a few texts with the videos of a batch, scored here and now. `steps`: of the whole training. `processes`: how many
    share the texts of a step. `pairs`: how many a step scores; None for every caption with every video.
    """
    pair, step_pairs = flops_a_pair(head, train), batch**2 if pairs is None else pairs
    if pair < EXPENSIVE_PAIR or pair * step_pairs < EXPENSIVE_STEP:
        return
    seconds = _seconds_a_pair(head, train, batch) * step_pairs / processes
    count, fewer = (f"{batch:,} x {batch:,}", "") if pairs is None else (f"{pairs:,}", "--hard-negatives, ")
    say(
        f"head {head.name}: a step scores {count} pairs, {work(pair * step_pairs)} forward, and takes about "
        f"{duration(seconds)} here, all {steps:,} steps {duration(seconds * steps)}: a smaller {fewer}--batch-size or --max-frames "
        "costs less"
    )


def _seconds_a_pair(head: Head, split: Split, videos: int) -> float:
    """Seconds of a pair, forward and backward."""
    device = head.logit_scale.device
    texts, gallery = TextBatch.gather(split.texts, range(_TEXTS), device), VideoBatch.gather(split.videos, range(videos), device)
    with torch.enable_grad():
        synchronize(device)
        start = time.perf_counter()
        scores_SAB = head.train().scores(head.encode_texts(texts), head.encode_videos(gallery))
        scores_SAB.sum().backward()
        synchronize(device)
    seconds = time.perf_counter() - start
    head.zero_grad()
    return seconds / (_TEXTS * videos)
