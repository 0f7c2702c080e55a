"""How long videos are, as far as a cache knows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.cache import FeatureCache


def seconds_covered(seconds: Sequence[NDArray[np.float64]], cache: FeatureCache) -> NDArray[np.float64]:
    """The length of each video in seconds, to a tenth: from its first to its last cached frame, of which `seconds` holds the times, and the
    1 / fps for which the last one stands. For imported features, whose rate is not known, the last frame counts nothing.

    A cache does not hold the lengths of files, so this is the length to 1 / fps.
    """
    last = 1 / cache.settings["fps"] if "fps" in cache.settings else 0.0
    return np.array([round(float(time_F[-1] - time_F[0]) + last, 1) for time_F in seconds])
