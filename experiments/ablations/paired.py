"""Paired differences of runs, and their intervals by Student's t.

The intervals of the claims of a world hold together: each has the level 1 - (1 - LEVEL) / m, where m is the number of comparisons of that
world (Bonferroni; Dunn 1961, "Multiple comparisons among means", JASA 56, 52-64). Nothing is assumed of how the comparisons depend on each
other, which share runs.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from evaluate.bootstrap import LEVEL
from experiments.ablations.claims import Figure


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences with an interval; infinite for one pair alone."""

    mean: float
    low: float
    high: float
    pairs: int


def differences(runs: pd.DataFrame, others: pd.DataFrame, figure: Figure, split: str) -> list[float]:
    """The runs' figure less that of others at the same seed; empty where either has none."""
    column = figure.column.format(split=split)
    if column not in runs or column not in others:
        return []
    paired = (runs[column] - others[column]).dropna() * figure.factor
    return [float(value) for value in paired]


def interval(paired: Sequence[float], comparisons: int = 1) -> Difference:
    """The mean of paired differences, and the interval of one of so many comparisons that hold together at LEVEL."""
    mean, n = statistics.mean(paired), len(paired)
    if n < 2:
        return Difference(mean, -math.inf, math.inf, n)
    half = quantile(n, comparisons) * statistics.stdev(paired) / n**0.5
    return Difference(mean, mean - half, mean + half, n)


def quantile(pairs: int, comparisons: int) -> float:
    """Student's t for the mean of this many pairs."""
    from scipy.stats import t

    return float(t.isf((1 - LEVEL) / 2 / comparisons, pairs - 1))
