"""The cost of scoring, before it starts: FLOPs by the head's formula, and seconds at a rate measured on real texts and videos.

A head that is cheap for every pair scores a gallery of thousands in minutes, and nobody needs to be told. One that runs a Transformer for
every pair may take days, and that must be known before the first pair.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.progress import duration, say
from data.cache.features import TextFeatures, VideoFeatures
from data.compute.device import synchronize
from data.compute.processes import ProcessGroup
from train_head.batches import TextBatch, VideoBatch
from train_head.heads import Head
from train_head.kernels.blocks import TEXTS_PER_BLOCK, VIDEOS_PER_BLOCK
from train_head.scoring.pairs import videos_per_block
from train_head.scoring.splits import Split

MEASURED_FROM_FLOPS = 2e12
"""Less work than this, in full blocks of videos, is not measured: the slowest machines do it within minutes."""
SAID_FROM_S = 60.0
REFUSED_FROM_S = 86_400.0
MEASURE_S = 0.3
"""Seconds of repeated scoring behind a rate. A single block may take longer."""
_TEXTS_ON_A_GPU = 64
_MOST_BLOCKS = 4
"""Blocks of videos to measure with. With more, the last one hardly matters."""


def flops_a_pair(head: Head, split: Split) -> float:
    """FLOPs per pair (see `Head.flops`), averaged over all text-video pairs of the split."""
    words_W, texts_W = np.unique(split.texts.words.length_N, return_counts=True)
    frames_V, videos_V = np.unique(split.videos.frames.length_N, return_counts=True)
    flops_WV = head.flops(words_W[:, None], frames_V)
    return float((flops_WV * texts_W[:, None] * videos_V).sum() / (texts_W.sum() * videos_V.sum()))


def warm_up(head: Head, texts: TextFeatures, videos: VideoFeatures) -> None:
    """Score one pair, so that loading compiled code is not measured."""
    device = head.logit_scale.device
    head.eval()
    with torch.no_grad():
        encoded = head.encode_texts(TextBatch.gather(texts, [0], device))
        head.scores(encoded, head.encode_videos(VideoBatch.gather(videos, [0], device)))


def check_cost(
    head: Head,
    texts: TextFeatures,
    videos: VideoFeatures,
    what: str,
    flops: float,
    remedy: str,
    quiet: bool = True,
    processes: ProcessGroup | None = None,
    videos_at_once: int | None = None,
    threads: int | None = None,
) -> None:
    """Say in one line on stderr what this work costs, if it takes more than a minute.

        scoring 1,000 x 500 pairs with head tight takes 165 TFLOP, about 27 min at the 100 GFLOP/s measured here

    `what` names the work, and `flops` is its size. The rate comes from scoring some of the texts with some of the videos, which takes up to
    a second; work below MEASURED_FROM_FLOPS is not measured. Processes share the work, at the rate of the slowest of them. For
    `videos_at_once` and `threads` see `flops_a_second`.

    Raises UserError with the `remedy` if the work would take a day or more.
    """
    filled = 1.0 if videos_at_once is None else min(1.0, videos_at_once / VIDEOS_PER_BLOCK)
    if flops < filled * MEASURED_FROM_FLOPS:
        return
    group = processes or ProcessGroup()
    seconds_a_flop = torch.tensor([1 / flops_a_second(head, texts, videos, videos_at_once, threads)], dtype=torch.float64)
    group.maximum(seconds_a_flop)
    rate = group.world_size / float(seconds_a_flop)
    line = f"{what} with head {head.name} takes {work(flops)}, about {duration(flops / rate)} at the {work(rate)}/s measured here"
    if flops / rate >= REFUSED_FROM_S:
        raise UserError(f"{line}: {remedy}")
    if flops / rate > SAID_FROM_S and not quiet and group.rank == 0:
        say(line)


def check_first_pass(head: Head, split: Split, quiet: bool = True, processes: ProcessGroup | None = None) -> None:
    """`check_cost` of a first stage, which scores all pairs of the split to find candidates."""
    texts, videos = len(split.answers), len(split.videos.ids)
    check_cost(
        head,
        split.texts,
        split.videos,
        f"scoring {texts:,} x {videos:,} pairs of split {split.name!r} in the first stage",
        flops_a_pair(head, split) * texts * videos,
        "name a faster run with --candidates-run, such as zero-shot:mean",
        quiet,
        processes,
    )


def check_reranking(head: Head, split: Split, k: int, what: str, remedy: str, quiet: bool = True, times: int = 1) -> None:
    """`check_cost` of re-ranking the K best videos of every text and the K best texts of every video, this many times.

    For heads that score hardly more than these pairs (`Head.texts_alone`). `what` names the work; the number of pairs follows it.
    """
    texts, videos = len(split.answers), len(split.videos.ids)
    most = min(texts * videos, texts * min(k, videos) + videos * min(k, texts))
    check_cost(
        head,
        split.texts,
        split.videos,
        f"{what} up to {most:,} pairs,",
        flops_a_pair(head, split) * most * times,
        remedy,
        quiet,
        videos_at_once=-(-most // texts),
    )


@torch.no_grad()
def flops_a_second(
    head: Head, texts: TextFeatures, videos: VideoFeatures, videos_at_once: int | None = None, threads: int | None = None
) -> float:
    """The FLOPs a second of `Head.scores` for some texts and videos of usual lengths, after a warm-up.

    `videos_at_once`: how many videos each text is scored with, None for a gallery that fills all blocks. On a CPU a head computes whole
    blocks, so that a few candidates of a text take as long as a block of them. `threads`: how many share the work, None for all.
    """
    device = head.logit_scale.device
    warm_up(head, texts, videos)
    with _threads(threads):
        text_count = _TEXTS_ON_A_GPU
        if device.type == "cpu":
            # As many full blocks as there are threads.
            text_count = torch.get_num_threads() * (1 if head.texts_alone else TEXTS_PER_BLOCK)
        some_texts = _of_middle_length(np.asarray(texts.words.length_N), text_count)
        if videos_at_once is None:
            video_count = VIDEOS_PER_BLOCK if device.type == "cpu" else videos_per_block(head, int(videos.frames.length_N.max()))
            some_videos = _of_middle_length(np.asarray(videos.frames.length_N), video_count)
        else:
            some_videos = _of_all_lengths(np.asarray(videos.frames.length_N), min(videos_at_once, _MOST_BLOCKS * VIDEOS_PER_BLOCK))
        encoded_texts = head.encode_texts(TextBatch.gather(texts, some_texts, device))
        encoded_videos = head.encode_videos(VideoBatch.gather(videos, some_videos, device))
        words, frames = texts.words.length_N[some_texts], videos.frames.length_N[some_videos]
        flops_AB = head.flops(words[:, None], frames)
        flops = float(np.broadcast_to(flops_AB, (len(words), len(frames))).sum())
        synchronize(device)
        start = ended = time.perf_counter()
        rounds = 0
        while ended - start < MEASURE_S:
            head.scores(encoded_texts, encoded_videos)
            synchronize(device)
            ended = time.perf_counter()
            rounds += 1
    return rounds * flops / (ended - start)


def work(flops: float) -> str:
    """FLOPs in the unit that suits them, with three digits.

    >>> work(1.654e14)
    '165 TFLOP'
    """
    unit, size = next((unit, size) for unit, size in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)) if flops >= size or unit == "MFLOP")
    return f"{_three_digits(flops / size)} {unit}"


def _three_digits(number: float) -> str:
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _of_middle_length(length_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices of `count` items, or all if there are fewer, whose lengths are next to the median, so that they fill few blocks."""
    order = np.argsort(length_N, kind="stable")
    first = max(0, (len(order) - count) // 2)
    return np.sort(order[first : first + count])


def _of_all_lengths(length_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices of `count` items, or all if there are fewer, at even steps through the order of lengths."""
    order, count = np.argsort(length_N, kind="stable"), min(count, len(length_N))
    return np.sort(order[(2 * np.arange(count) + 1) * len(order) // (2 * count)])


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use this many threads, or all if None."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
