"""Picks the videos that a query is scored with: all of them, or the nearest ones in an index of the gallery."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.cache.features import TextFeatures
from search.index.candidates import candidates_of
from search.index.engine import Engine
from search.index.words import ContentWords


class Shortlist(Protocol):
    """Picks the videos of a gallery that are scored exactly for a query."""

    def close(self) -> None:
        """Close what it is connected to."""

    def candidates(self, texts: TextFeatures, number: int, count: int) -> NDArray[np.int64]:
        """Ascending indices of at least one video to score with the text `number`. They should include its best `count` videos."""


class WholeGallery:
    """Every video is a candidate, so no result can be missed."""

    def __init__(self, videos: int) -> None:
        self._all = np.arange(videos)

    def close(self) -> None:
        """Nothing: there is no index."""

    def candidates(self, texts: TextFeatures, number: int, count: int) -> NDArray[np.int64]:
        return self._all


class IndexedGallery:
    """The candidates are the videos nearest in an index to the sentence, or also to its content words."""

    def __init__(self, index: Engine, candidates: int, words: Callable[[], ContentWords] | None = None) -> None:
        """`candidates`: their number per query, at most the number of videos. `words`: called if content words take part."""
        self._index, self._candidates, self._words = index, candidates, words

    def close(self) -> None:
        self._index.close()

    def candidates(self, texts: TextFeatures, number: int, count: int) -> NDArray[np.int64]:
        assert count <= self._candidates
        words = None if self._words is None else self._words()
        found = candidates_of(self._index, texts, [number], self._candidates, words=words)[0]
        return np.sort(found[found >= 0])
