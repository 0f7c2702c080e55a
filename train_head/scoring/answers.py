"""Which captions are right for which videos.

Shape suffixes: A texts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Answers:
    """Which captions are right for which videos: a video's own, and equal ones of other videos."""

    def __init__(self, captions: Sequence[str], answers: NDArray[np.int64], videos: int) -> None:
        self.answers, self.videos = answers, videos
        self.most_texts = int(np.bincount(answers).max())
        """The number of texts of the video that has the most."""
        numbers: dict[str, int] = {}
        self._caption_A = np.array([numbers.setdefault(caption, len(numbers)) for caption in captions])
        self._right = np.unique(self._caption_A * videos + answers)

    def right(self, texts: NDArray[np.int64], videos: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether these texts and videos belong together, of two arrays that broadcast."""
        pairs = self._caption_A[texts] * self.videos + videos
        places = np.searchsorted(self._right, pairs).clip(max=len(self._right) - 1)
        found: NDArray[np.bool_] = self._right[places] == pairs
        return found

    def pool_sizes(self, k: int) -> tuple[int, int]:
        """The videos to draw from for a text, and the texts for a video: `k`, or as many as other videos and their captions leave."""
        return min(k, self.videos - 1), min(k, len(self.answers) - self.most_texts)
