"""Picks the videos that a query is scored with: all of them, or the nearest ones in an index of the gallery."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.nn.functional import normalize

from search.index.engine import Engine
from train_head.heads import TextBatch


class Shortlist(Protocol):
    """Picks the videos of a gallery that are scored exactly for a query."""

    def candidates(self, query: TextBatch, count: int) -> NDArray[np.int64]:
        """Ascending indices of at least one video to score with this one text. They should include its best `count` videos."""


class WholeGallery:
    """Every video is a candidate, so no result can be missed."""

    def __init__(self, videos: int) -> None:
        self._all = np.arange(videos)

    def candidates(self, query: TextBatch, count: int) -> NDArray[np.int64]:
        return self._all


class IndexedGallery:
    """The candidates are the videos nearest to the sentence in an index."""

    def __init__(self, index: Engine, number: int) -> None:
        """`number`: candidates per query, at most the number of videos."""
        self._index, self._number = index, number

    def candidates(self, query: TextBatch, count: int) -> NDArray[np.int64]:
        assert count <= self._number
        video_AK, _ = self._index.search(normalize(query.sentence_AD, dim=-1).cpu().numpy(), self._number)
        found = video_AK[0]
        return np.sort(found[found >= 0])
