"""Which videos are worth an exact score: all of them, or those that an index of the gallery names."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.nn.functional import normalize

from search.index.vectors import VideoIndex
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


class IndexedGallery:
    """The videos that an index finds nearest to the sentence."""

    def __init__(self, index: VideoIndex, number: int) -> None:
        """`number`: candidates of a query, no more than there are videos."""
        self._index, self._number = index, number

    def candidates(self, query: TextBatch, count: int) -> NDArray[np.int64]:
        assert count <= self._number
        video_AK, _ = self._index.search(normalize(query.sentence_AD, dim=-1).cpu().numpy(), self._number)
        return np.sort(video_AK[0])
