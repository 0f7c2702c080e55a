"""Whether what a query found is any better than what random words find in the same gallery.

A best score alone does not say so. Some videos score high with any text, some texts score high with any video, and with it all scores rise
or fall with the length of a text. So for a query q of L tokens, RANDOM_QUERIES texts r of as many tokens are made of random words of the
vocabulary, and

    surplus(q) = max over v of d(q, v) - median over v of d(q, v)      d(q, v) = s(q, v) - mean over r of s(r, v)

says how far the best video stands above the others, beyond what any text of this length gives it. The surplus of each random text is
taken in the same way, from the mean of the others; a query whose surplus is no larger than the largest of them is no better than random
words. If it were random words itself, this would be so for all but one in RANDOM_QUERIES + 1.

With an index, v are the candidates of q, or of r for its own surplus.

Shape suffixes: R random texts, U videos that any of them is scored with, B videos of a query.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.gallery import Gallery
from search.queries import QueryEncoder
from train_head.heads import TextBatch

RANDOM_QUERIES = 20
FEWEST_VIDEOS = 2
"""One video alone has nothing to stand out from."""
ROUNDING = 2.0**-10
"""Of the factor of the scores: cosines of features that were rounded to float16, to 2^-11 of their size on either side."""


@dataclass(frozen=True)
class _Level:
    """What random texts of one length get: the texts, the mean of their scores with the videos `video_U`, and their largest surplus."""

    texts: TextBatch
    video_U: NDArray[np.int64]
    mean_U: NDArray[np.float32]
    largest: float


class Chance:
    """Compares queries with random words; those of a length are scored when the first query of that length comes."""

    def __init__(
        self, gallery: Gallery, encoder: QueryEncoder, candidates: Callable[[TextBatch], NDArray[np.int64]], factor: float
    ) -> None:
        """`candidates` gives the videos that a text is scored with, in ascending order; `factor` is that of the scores."""
        self._gallery, self._encoder, self._candidates = gallery, encoder, candidates
        self._rounding = factor * ROUNDING
        self._levels: dict[int, _Level] = {}

    def explains(self, text: TextBatch, videos: NDArray[np.int64], score_B: NDArray[np.float32]) -> bool:
        """Whether these scores of one text, with these videos, are no better than those of random words."""
        if len(videos) < FEWEST_VIDEOS:
            return False
        length = int(text.length_A[0])
        if length not in self._levels:
            self._levels[length] = self._level(length)
        level = self._levels[length]
        same = np.array_equal(videos, level.video_U)
        mean_B = level.mean_U if same else self._gallery.scores(level.texts, videos).mean(axis=0)
        return _surplus(score_B, mean_B) <= level.largest + self._rounding

    def _level(self, length: int) -> _Level:
        words = self._encoder.tokenizer.random_words
        features = self._encoder.encode_many([words(length - 2, seed) for seed in range(RANDOM_QUERIES)], quiet=True)
        single = [TextBatch.gather(features, [r], self._gallery.device) for r in range(RANDOM_QUERIES)]
        chosen = [self._candidates(text) for text in single]
        video_U = np.unique(np.concatenate(chosen))
        texts = TextBatch.gather(features, range(RANDOM_QUERIES), self._gallery.device)
        score_RU = self._gallery.scores(texts, video_U)
        total_U = score_RU.sum(axis=0)
        surplus = []
        for score_U, videos in zip(score_RU, chosen, strict=True):
            at = np.searchsorted(video_U, videos)
            surplus.append(_surplus(score_U[at], (total_U[at] - score_U[at]) / (RANDOM_QUERIES - 1)))
        return _Level(texts, video_U, total_U / RANDOM_QUERIES, max(surplus))


def _surplus(score_B: NDArray[np.float32], mean_B: NDArray[np.float32]) -> float:
    difference_B = score_B - mean_B
    return float(difference_B.max() - np.median(difference_B))
