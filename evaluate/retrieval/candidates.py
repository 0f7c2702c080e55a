"""Which videos are worth an exact score: the one place that an index of the gallery takes."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from train_head.heads import TextBatch


class Candidates(Protocol):
    """Names the videos of a gallery that are scored exactly for a query."""

    def candidates(self, query: TextBatch, count: int) -> NDArray[np.int64]:
        """Ascending indices of the videos to score for this one text, at least one: its best `count` should be among them."""


class WholeGallery:
    """Every video is a candidate: nothing can be missed."""

    def __init__(self, videos: int) -> None:
        self._all = np.arange(videos)

    def candidates(self, query: TextBatch, count: int) -> NDArray[np.int64]:
        return self._all
