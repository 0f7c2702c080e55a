"""Bounds of what rounding explains, and comparisons that a NaN never passes."""

from collections.abc import Iterable

import numpy as np
from torch import Tensor

ROUNDING_ONLY = 2.0**-40
"""A gradient below this share of the largest one is zero but for the rounding of float64."""
FLOOR = 0.25
"""The most of a parameter's own gradient that the rounding of larger gradients may explain: a doubled gradient is always seen."""


def largest(x: Tensor) -> float:
    """The largest absolute value; 0 of none, NaN if any is NaN."""
    return float(x.abs().max()) if x.numel() else 0.0


def most(values: Iterable[float]) -> float:
    """The largest value, and NaN if any is NaN: `max` would drop it."""
    return float(np.max(list(values)))


def gradient_bound(own: float, moved: float, of_all: float, share: float) -> float:
    """How far rounding may move a parameter's gradient.

    own: the largest entry of this gradient.
    moved: how far the worst draw moved it.
    of_all: the largest entry of the gradients of all parameters.
    share: of `of_all`, what sums that cancel carry from larger gradients into this one.
    """
    # A gradient that is zero, such as that of a bias in front of a softmax, is a sum of large parts that cancel.
    return 3 * moved + (share * of_all if own <= ROUNDING_ONLY * of_all else min(share * of_all, FLOOR * own))
