"""Divides the queries of both directions into groups by a trait: kinds, or ranges of lengths that hold about as many captions each.

Shape suffixes: Q queries, A captions that are queries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluate.breakdown.traits import KIND, WORDS

MOST_RANGES = 4
MOST_KINDS = 20
"""Kinds with groups of their own, the most frequent first; queries of others are left out."""
UNITS = {"words": ("word", "words"), "seconds": ("s", "s")}


@dataclass(frozen=True)
class Group:
    """Some queries of each direction.

    members: for text to video and video to text, whether each query belongs to the group [Q].
    """

    name: str
    members: tuple[NDArray[np.bool_], NDArray[np.bool_]]


@dataclass(frozen=True)
class Groups:
    """All groups by a trait.

    left_out: for text to video and video to text, the number of queries that are in no group.
    further_kinds: the number of kinds without a group of their own.
    """

    by: str
    groups: tuple[Group, ...]
    left_out: tuple[int, int]
    further_kinds: int = 0


def groups_by(by: str, texts: pd.DataFrame, videos: pd.DataFrame) -> Groups | None:
    """The groups of queries by a trait; None if it is the kind, and no caption has one.

    texts, videos: rank tables with columns of traits: see `evaluate.ranks.RankTables`.

    A video belongs to a kind if all of its captions do, and to a range of words by the mean length of its captions,
    rounded down.
    """
    if by != KIND:
        starts = range_starts(texts[by].to_numpy(dtype=np.float64))
        return Groups(by, _ranges(by, starts, texts, videos), (0, 0))
    counts = texts.loc[texts[KIND] != "", KIND].value_counts()
    kinds = sorted(counts.index, key=lambda kind: (-counts[kind], kind))
    if not kinds:
        return None
    shown = kinds[:MOST_KINDS]
    groups = tuple(Group(kind, _both(texts[KIND] == kind, videos[KIND] == kind)) for kind in shown)
    left_out = tuple(int((~table[KIND].isin(shown)).sum()) for table in (texts, videos))
    return Groups(by, groups, (left_out[0], left_out[1]), len(kinds) - len(shown))


def range_starts(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest value of each of at most MOST_RANGES ranges, in ascending order. Each range ends before the next one starts.

    They start at quantiles, so that each holds about as many values. Equal values are never divided, so there may be fewer ranges.

    >>> range_starts(np.array([3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0]))
    array([3., 5., 7., 9.])
    """
    ordered = np.sort(values)
    return np.unique(ordered[np.arange(MOST_RANGES) * len(ordered) // MOST_RANGES])


def _ranges(by: str, starts: NDArray[np.float64], texts: pd.DataFrame, videos: pd.DataFrame) -> tuple[Group, ...]:
    values = texts[by].to_numpy(dtype=np.float64)
    # A mean of captions' lengths is not less than the smallest length, but for rounding.
    places = [np.maximum(np.searchsorted(starts, table[by].to_numpy(dtype=np.float64), side="right") - 1, 0) for table in (texts, videos)]
    lasts = [values[places[0] == i].max() for i in range(len(starts))]
    if by == WORDS:
        # The mean length of a video's captions may be one that no caption has.
        lasts[:-1] = starts[1:] - 1
    names = [_range_name(by, first, last) for first, last in zip(starts, lasts, strict=True)]
    return tuple(Group(name, _both(places[0] == i, places[1] == i)) for i, name in enumerate(names))


def _range_name(by: str, first: float, last: float) -> str:
    """Such as "1-7 words" or "3.5 s"."""
    shown = [f"{value:.1f}".removesuffix(".0") for value in (first, last)]
    one, several = UNITS[by]
    number = shown[0] if first == last else "-".join(shown)
    return f"{number} {one if number == '1' else several}"


def _both(of_texts: Any, of_videos: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return np.asarray(of_texts, dtype=bool), np.asarray(of_videos, dtype=bool)
