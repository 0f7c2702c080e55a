"""Picks the videos that a query is scored with: all of them, or the nearest ones in an index of the gallery."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.cache.features import TextFeatures
from search.index.candidates import candidates_of
from search.index.engine import Engine
from search.index.words import ContentWords

WIDER = 4
"""How many times more candidates are asked for if too few pass a filter."""


class Shortlist(Protocol):
    """Picks the videos of a gallery that are scored exactly for a query: ascending indices, at least one.

    `within`: ascending indices of the videos that the query may find, at least one; None for all.
    """

    def for_text(self, texts: TextFeatures, number: int, within: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """The videos to score with the text `number`."""

    def for_vector(self, vector_D: NDArray[np.float32], within: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """The videos to compare with a vector of a picture."""

    def close(self) -> None:
        """Close what it is connected to."""


class WholeGallery:
    """Every video is a candidate, so no result can be missed."""

    def __init__(self, videos: int) -> None:
        self._all = np.arange(videos)

    def for_text(self, texts: TextFeatures, number: int, within: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        return self._all if within is None else within

    def for_vector(self, vector_D: NDArray[np.float32], within: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        return self._all if within is None else within

    def close(self) -> None:
        """Nothing: there is no index."""


class IndexedGallery:
    """The candidates are the videos nearest in an index to the sentence, or also to its content words."""

    def __init__(self, index: Engine, candidates: int, words: Callable[[], ContentWords] | None = None) -> None:
        """`candidates`: their number per query, at most the number of videos. `words`: called if content words take part."""
        self._index, self._candidates, self._words = index, candidates, words

    def for_text(self, texts: TextFeatures, number: int, within: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        words = None if self._words is None else self._words()
        return self._nearest(lambda k: candidates_of(self._index, texts, [number], k, words=words)[0], within)

    def for_vector(self, vector_D: NDArray[np.float32], within: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        unit_D = vector_D / max(float(np.linalg.norm(vector_D)), 1e-12)
        return self._nearest(lambda k: self._index.search(unit_D[None], k)[0][0], within)

    def close(self) -> None:
        self._index.close()

    def _nearest(self, search: Callable[[int], NDArray[np.int64]], within: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """The nearest of the videos within. The index knows no filter, so it is asked for more until enough of them pass."""
        if within is not None and len(within) <= self._candidates:
            return within
        k = self._candidates
        while True:
            found = search(k)
            found = found[found >= 0]
            passed = found if within is None else found[np.isin(found, within, assume_unique=True)]
            if len(passed) >= self._candidates or within is None or k == self._index.videos:
                return np.sort(passed[: self._candidates])
            k = min(WIDER * k, self._index.videos)
