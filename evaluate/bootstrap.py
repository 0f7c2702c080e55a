"""Confidence intervals over queries, by the percentile bootstrap (Efron 1979).

Each resample draws queries with replacement, as many as there are: captions for text to video, videos for video to text. RSum
joins both directions, whose ranks are correlated, so it draws videos, each with all of its captions. Captions of one video are
not independent. With many captions per video, the text-to-video intervals therefore cover the choice of captions, not of videos.
Ties are credited by expectation, whatever rule the headline metrics use.

One draw serves all metrics. The same seed draws the same queries for every result on a split, so two results are compared by
subtracting their arrays. scipy.stats.bootstrap gives the same limits (a test compares them) but draws anew for each statistic.

Shape suffixes: N resamples, A texts, B videos that have texts, Q queries, K recalls.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.metrics import DIRECTIONS, MEAN_RANK, MEDIAN_RANK, RECALL_NAMES, RECALL_SUM, RECALLS, TEXT_TO_VIDEO, VIDEO_TO_TEXT, Ranks

LEVEL = 0.95
RESAMPLES = 2000
_BLOCK = 2**22
"""Weights held in memory at once; resamples are processed in blocks."""

Samples = dict[str, Any]
"""As `data.metrics.Metrics`, with an array [N] in place of every number."""


def resample(
    ranks: tuple[Ranks, Ranks], owner_A: NDArray[np.int64] | None, resamples: int, seed: int, recalls_alone: bool = False
) -> Samples:
    """Metrics of both directions, and RSum, in every resample.

    `ranks`: text to video, then video to text. `owner_A` [A]: for each text, the index of its video among the video-to-text
    queries; None for text to video alone. `recalls_alone`: leave out MdR, which takes most of the time, and MnR.
    """
    texts, videos = ranks
    rng = np.random.default_rng(seed)
    figures = _recall_figures if recalls_alone else _figures
    by_text = [figures(texts, weight_NA) for weight_NA in _draws(len(texts.best_Q), resamples, rng)]
    if owner_A is None:
        return {TEXT_TO_VIDEO: _joined(by_text)}
    by_video, sums = [], []
    for weight_NB in _draws(len(videos.best_Q), resamples, rng):
        by_video.append(figures(videos, weight_NB))
        sums.append(recalls(texts, weight_NB[:, owner_A]).sum(axis=1) + recalls(videos, weight_NB).sum(axis=1))
    return {TEXT_TO_VIDEO: _joined(by_text), VIDEO_TO_TEXT: _joined(by_video), RECALL_SUM: np.concatenate(sums)}


def intervals(ranks: tuple[Ranks, Ranks], owner_A: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """The interval [low, high] of every metric, and the method, as plain values for JSON."""
    samples = resample(ranks, owner_A, RESAMPLES, seed)
    return {
        "level": LEVEL,
        "method": "percentile bootstrap over queries",
        "resamples": RESAMPLES,
        "seed": seed,
        **{name: {key: limits(value) for key, value in samples[name].items()} for name in DIRECTIONS},
        RECALL_SUM: limits(samples[RECALL_SUM]),
    }


def recall_intervals(ranks: Ranks, seed: int) -> dict[str, list[float]]:
    """The interval [low, high] of each recall of one direction."""
    draws = _draws(len(ranks.best_Q), RESAMPLES, np.random.default_rng(seed))
    recall_NK = np.concatenate([recalls(ranks, weight_NQ) for weight_NQ in draws])
    return {name: limits(recall_NK[:, i]) for i, name in enumerate(RECALL_NAMES)}


def resample_shares(
    holds: tuple[NDArray[np.bool_], NDArray[np.bool_]], resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The percentage of queries [N] for which something holds [Q], in every resample of each direction: the draws of `resample`.

    `holds`: text to video, then video to text.
    """
    rng = np.random.default_rng(seed)
    of_texts, of_videos = (
        np.concatenate([weight_NQ @ holds_Q * (100 / len(holds_Q)) for weight_NQ in _draws(len(holds_Q), resamples, rng)])
        for holds_Q in holds
    )
    return of_texts, of_videos


def limits(sample_N: NDArray[np.float64]) -> list[float]:
    """The ends of the central interval, which leaves out as many resamples below as above."""
    low, high = np.quantile(sample_N, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def _draws(count: int, resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """How often each resample drew each query [N, Q], in blocks of resamples."""
    size = max(1, _BLOCK // count)
    for first in range(0, resamples, size):
        rows = min(size, resamples - first)
        drawn_NQ = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn_NQ.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _figures(ranks: Ranks, weight_NQ: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    total_N = weight_NQ.sum(axis=1)
    order_Q = np.argsort(ranks.expected, kind="stable")
    sorted_Q = ranks.expected[order_Q]
    below_NQ = np.cumsum(weight_NQ[:, order_Q], axis=1)
    # The two middle entries; they coincide if the number of entries is odd.
    middles_N2 = np.stack([(total_N + 1) // 2, total_N // 2 + 1], axis=1)
    places = np.array([np.searchsorted(below_Q, middle_2) for below_Q, middle_2 in zip(below_NQ, middles_N2, strict=True)])
    return {
        **_recall_figures(ranks, weight_NQ),
        MEDIAN_RANK: sorted_Q[places].mean(axis=1),
        MEAN_RANK: weight_NQ @ ranks.expected / total_N,
    }


def _recall_figures(ranks: Ranks, weight_NQ: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    recall_NK = recalls(ranks, weight_NQ)
    return {name: recall_NK[:, i] for i, name in enumerate(RECALL_NAMES)}


def recalls(ranks: Ranks, weight_NQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """R@1, R@5 and R@10 [N, K] in percent; every query counts as often as it was drawn."""
    recall_NK: NDArray[np.float64] = weight_NQ @ np.stack([ranks.recall(k) for k in RECALLS], axis=1)
    recall_NK *= 100 / weight_NQ.sum(axis=1, keepdims=True)
    return recall_NK


def _joined(blocks: Sequence[dict[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
