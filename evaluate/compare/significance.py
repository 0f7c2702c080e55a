"""Is the difference of two results real: paired tests over the same queries.

The paired bootstrap draws the same queries for both (evaluate/bootstrap.py says which), and gives the 95% interval of the difference and
p, twice the smaller share of draws on either side of no difference. McNemar's exact test counts, of the captions that one result answers
at rank 1 and the other does not, how many are on either side, against a fair coin. An answer that ties for rank 1 is not at rank 1 there.

Over several seeds, the difference is that of the means: it holds for these seeds and other queries. McNemar's test wants one result on
either side. No p is corrected for the number of tests that are made.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.metrics import RECALL_NAMES, RECALL_SUM, TEXT_TO_VIDEO
from evaluate.bootstrap import limits, resample
from evaluate.compare.results import Group, Result

RESAMPLES = 10_000
TESTED = (*RECALL_NAMES, RECALL_SUM)
"""Figures whose differences are tested; the recalls are of text to video."""

Samples = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """A figure of one result less that of the base, in points of percent."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class McNemar:
    """Captions answered at rank 1 by one of two results alone."""

    gained: int
    """Not by the base."""
    lost: int
    """By the base alone."""
    p: float


@dataclass(frozen=True)
class Comparison:
    """A group against the base."""

    figures: dict[str, Difference]
    """By the names of TESTED."""
    mcnemar: McNemar | None
    """None where either side has several seeds."""

    def plain(self) -> dict[str, Any]:
        """As values for JSON."""
        return asdict(self)


def compare_with_base(groups: Sequence[Group], base: Group, seed: int) -> list[Comparison]:
    """Test all differences of each group; all have results on the queries of the base."""
    theirs = _mean_samples(base, seed) if groups else {}
    return [_compare(group, base, _mean_samples(group, seed), theirs) for group in groups]


def _compare(group: Group, base: Group, ours: Samples, theirs: Samples) -> Comparison:
    figures = {}
    for name in TESTED:
        sample_N = ours[name] - theirs[name]
        figure = name if name == RECALL_SUM else f"{TEXT_TO_VIDEO} {name}"
        low, high = limits(sample_N)
        figures[name] = Difference(group.figures[figure][0] - base.figures[figure][0], low, high, two_sided(sample_N))
    single = len(group.results) == len(base.results) == 1
    return Comparison(figures, mcnemar(group.first, base.first) if single else None)


def two_sided(sample_N: NDArray[np.float64]) -> float:
    """p of no difference from resampled differences, never 0: one draw more on either side stands for those that were not made."""
    count = 1 + min(int((sample_N <= 0).sum()), int((sample_N >= 0).sum()))
    return min(1.0, 2 * count / (len(sample_N) + 1))


def mcnemar(result: Result, base: Result) -> McNemar:
    """McNemar's exact test on captions answered at rank 1."""
    from scipy.stats import binomtest  # takes a second to import, and not every comparison has a base

    ours_A, theirs_A = (one.ranks.ranks()[0].worst_Q == 1 for one in (result, base))
    gained, lost = int((ours_A & ~theirs_A).sum()), int((theirs_A & ~ours_A).sum())
    return McNemar(gained, lost, float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0)


def _mean_samples(group: Group, seed: int) -> Samples:
    """The tested figures in every resample, their means over the seeds of the group."""
    owner_A = group.first.ranks.owners()
    samples = [resample(result.ranks.ranks(), owner_A, RESAMPLES, seed, recalls_alone=True) for result in group.results]
    recalls = {name: np.mean([sample[TEXT_TO_VIDEO][name] for sample in samples], axis=0) for name in RECALL_NAMES}
    return {**recalls, RECALL_SUM: np.mean([sample[RECALL_SUM] for sample in samples], axis=0)}
