"""Choose frames of a video, by the same rule when decoding and when subsampling cached frames; and tokens of a text, for heads that read
fewer than the cache holds."""

import numpy as np
from numpy.typing import NDArray


def choose_frames(available: int, max_frames: int | None) -> NDArray[np.int64]:
    """Indices of at most `max_frames` of `available` frames, evenly spaced from the first to the last; None keeps all.

    The field's rule (CLIP4Clip's slice_framepos 2): np.linspace over the indices, truncated to integers.

    >>> choose_frames(6, 4)
    array([0, 1, 3, 5])
    """
    if max_frames is None or available <= max_frames:
        return np.arange(available)
    return np.linspace(0, available - 1, num=max_frames).astype(np.int64)


def choose_words(available: int, max_words: int | None) -> NDArray[np.int64]:
    """Indices of at most `max_words` of `available` tokens: the first ones and the end token; None keeps all.

    >>> choose_words(6, 4)
    array([0, 1, 2, 5])
    """
    if max_words is None or available <= max_words:
        return np.arange(available)
    return np.append(np.arange(max_words - 1), available - 1)
