"""Which frames of a video are looked at: the same rule when frames are decoded and when cached ones are thinned out. And which tokens of a
text a head reads that takes fewer than the cache has."""

import numpy as np
from numpy.typing import NDArray


def choose_frames(available: int, max_frames: int | None) -> NDArray[np.int64]:
    """Indices of at most `max_frames` of `available` frames, spread evenly from the first to the last; None keeps all.

    The field's rule (CLIP4Clip's slice_framepos 2): np.linspace over the indices, fractions cut off.
    """
    if max_frames is None or available <= max_frames:
        return np.arange(available)
    return np.linspace(0, available - 1, num=max_frames).astype(np.int64)


def choose_words(available: int, max_words: int | None) -> NDArray[np.int64]:
    """Indices of at most `max_words` of `available` tokens: the first ones, and the end token; None keeps all."""
    if max_words is None or available <= max_words:
        return np.arange(available)
    return np.append(np.arange(max_words - 1), available - 1)
