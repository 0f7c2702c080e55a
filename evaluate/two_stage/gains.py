"""What the second stage gains or loses against the first, with intervals by the paired bootstrap over queries.

Both stages are measured on the same resamples (see `evaluate.bootstrap`), so a difference leaves out what makes queries easy or hard
for both. Text to video draws captions, video to text draws videos, RSum draws videos with all of their captions.

Shape suffixes: Q queries of a direction, N resamples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.metrics import DIRECTIONS, RECALL_NAMES, RECALL_SUM, Ranks, recall_sum, summary
from evaluate.bootstrap import LEVEL, RESAMPLES, limits, resample, resample_shares

BothRanks = tuple[Ranks, Ranks]
"""Text to video first."""


def gains(
    first: BothRanks, second: BothRanks, there: tuple[NDArray[np.bool_], NDArray[np.bool_]], owner_A: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    """Entries of metrics.json: `intervals` of the first stage and of the answers among the candidates, and `difference`.

        {"intervals": {"level": 0.95, ..., "text_to_video": {"R@1": [21.2, 29.9], ...}, "RSum": [...],
                       "answers_among_candidates": {"text_to_video": [88.1, 93.0], ...}},
         "difference": {"text_to_video": {"R@1": {"difference": 3.1, "low": 0.6, "high": 5.4}, ...}, ...,
                        "RSum": {"difference": 9.7, "low": -1.2, "high": 20.9}}}

    `first` and `second`: the ranks of the same queries in both stages. `there` [Q]: whether the answer is among the candidates, for each
    direction. `owner_A`: for each text, the index of its video among the video-to-text queries. A difference is the second stage minus
    the first, in percentage points: positive if the second stage gains.
    """
    samples, others = (resample(ranks, owner_A, RESAMPLES, seed, recalls_alone=True) for ranks in (first, second))
    figures, other_figures = _figures(first), _figures(second)
    shares = resample_shares(there, RESAMPLES, seed)

    def difference(before: Any, after: Any, before_N: NDArray[np.float64], after_N: NDArray[np.float64]) -> dict[str, float]:
        low, high = limits(after_N - before_N)
        return {"difference": after - before, "low": low, "high": high}

    intervals = {
        "level": LEVEL,
        "method": "percentile bootstrap over queries",
        "resamples": RESAMPLES,
        "seed": seed,
        **{name: {key: limits(value) for key, value in samples[name].items()} for name in DIRECTIONS},
        RECALL_SUM: limits(samples[RECALL_SUM]),
        "answers_among_candidates": {name: limits(share_N) for name, share_N in zip(DIRECTIONS, shares, strict=True)},
    }
    differences: dict[str, Any] = {
        name: {key: difference(figures[name][key], other_figures[name][key], samples[name][key], others[name][key]) for key in RECALL_NAMES}
        for name in DIRECTIONS
    }
    differences[RECALL_SUM] = difference(figures[RECALL_SUM], other_figures[RECALL_SUM], samples[RECALL_SUM], others[RECALL_SUM])
    return {"intervals": intervals, "difference": differences}


def _figures(ranks: BothRanks) -> Mapping[str, Any]:
    of_texts, of_videos = map(summary, ranks)
    return {**dict(zip(DIRECTIONS, (of_texts, of_videos), strict=True)), RECALL_SUM: recall_sum(of_texts, of_videos)}
