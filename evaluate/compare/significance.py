"""Paired significance tests of two results on the same queries.

The paired bootstrap (see evaluate/bootstrap.py) draws the same queries for both results. It gives the 95% interval of the
difference, and p: twice the fraction of draws on the smaller side of zero. McNemar's exact test takes the captions that exactly
one of the results answers at rank 1, and tests whether each result is equally likely to be that one. An answer that ties for
rank 1 does not count as answered.

With several seeds, the difference is between means: it generalizes to other queries, not to other seeds. McNemar's test needs a
single result on each side. The p values are not corrected for multiple tests.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.metrics import RECALL_NAMES, RECALL_SUM, TEXT_TO_VIDEO
from evaluate.bootstrap import limits, resample
from evaluate.compare.results import Result, SeedGroup

RESAMPLES = 10_000
TESTED = (*RECALL_NAMES, RECALL_SUM)
"""The metrics that are tested; the recalls are text-to-video."""

TestedSamples = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """A metric of one result minus that of the base, in percentage points."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class McNemar:
    """Captions that exactly one of two results answers at rank 1."""

    gained: int
    """Answered by the result but not by the base."""
    lost: int
    """Answered by the base only."""
    p: float


@dataclass(frozen=True)
class Comparison:
    """Tests of a group against the base."""

    figures: dict[str, Difference]
    """By the names in TESTED; without RSum if the results lack it, as on some groups of queries."""
    mcnemar: McNemar | None
    """None if either side has several seeds."""

    def as_dict(self) -> dict[str, Any]:
        """The tests as plain values for JSON."""
        return asdict(self)


def compare_with_base(groups: Sequence[SeedGroup], base: SeedGroup, seed: int) -> list[Comparison]:
    """Test each group against the base. All results must be on the queries of the base."""
    theirs = _mean_samples(base, seed) if groups else {}
    return [_compare(group, base, _mean_samples(group, seed), theirs) for group in groups]


def _compare(group: SeedGroup, base: SeedGroup, ours: TestedSamples, theirs: TestedSamples) -> Comparison:
    figures = {}
    for name in theirs:
        sample_N = ours[name] - theirs[name]
        figure = name if name == RECALL_SUM else f"{TEXT_TO_VIDEO} {name}"
        low, high = limits(sample_N)
        figures[name] = Difference(group.figures[figure][0] - base.figures[figure][0], low, high, two_sided(sample_N))
    single = len(group.results) == len(base.results) == 1
    return Comparison(figures, mcnemar(group.first, base.first) if single else None)


def two_sided(sample_N: NDArray[np.float64]) -> float:
    """Two-sided p value of no difference, from resampled differences [N].

    One extra draw is counted on the smaller side, so p is never 0: with 999 draws, the smallest p is 2 / 1000.
    """
    count = 1 + min(int((sample_N <= 0).sum()), int((sample_N >= 0).sum()))
    return min(1.0, 2 * count / (len(sample_N) + 1))


def mcnemar(result: Result, base: Result) -> McNemar:
    """McNemar's exact test on captions answered at rank 1."""
    from scipy.stats import binomtest  # takes a second to import, and comparisons without a base do not need it

    ours_A, theirs_A = (one.ranks.ranks()[0].worst_Q == 1 for one in (result, base))
    gained, lost = int((ours_A & ~theirs_A).sum()), int((theirs_A & ~ours_A).sum())
    return McNemar(gained, lost, float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0)


def _mean_samples(group: SeedGroup, seed: int) -> TestedSamples:
    """The tested metrics in every resample, averaged over the seeds of the group."""
    owner_A = group.first.ranks.owners() if RECALL_SUM in group.first.metrics else None
    samples = [resample(result.ranks.ranks(), owner_A, RESAMPLES, seed, recalls_alone=True) for result in group.results]
    recalls = {name: np.mean([sample[TEXT_TO_VIDEO][name] for sample in samples], axis=0) for name in RECALL_NAMES}
    sums = {} if owner_A is None else {RECALL_SUM: np.mean([sample[RECALL_SUM] for sample in samples], axis=0)}
    return recalls | sums
