"""Tells a real match from chance: would random words score as well in the same gallery?

The best score alone does not answer that. Some videos score high with any text, some texts score high with any video, and
scores drift with the length of the text. So for a query q of L tokens, we draw RANDOM_QUERIES texts r of L tokens, made of
random words from the vocabulary, and compute

    d(q, v)    = s(q, v) - mean over r of s(r, v)
    surplus(q) = max over v of d(q, v) - median over v of d(q, v)

The surplus measures how far the best video stands above the others, beyond what any text of this length would give it. Each
random text gets a surplus in the same way, from the mean of the other random texts. A query is no better than random words if
its surplus does not exceed the largest of theirs; random words would exceed it once in RANDOM_QUERIES + 1 times.

With an index, v ranges over the candidates of q; for the surplus of r, over the candidates of r.

Shape suffixes: R random texts, U videos that are a candidate of any random text, B videos of a query.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.cache.features import TextFeatures
from search.retrieval.gallery import Gallery
from search.retrieval.queries import QueryEncoder
from train_head.heads import TextBatch

RANDOM_QUERIES = 20
FEWEST_VIDEOS = 2
"""A single video has nothing to stand out from."""
ROUNDING = 2.0**-10
"""Tolerance, as a fraction of the logit scale: float16 rounds both features of a cosine by up to 2^-11 of their size."""


@dataclass(frozen=True)
class _Level:
    """Random texts of one length, the mean of their scores with the videos `video_U`, and their largest surplus."""

    texts: TextBatch
    video_U: NDArray[np.int64]
    mean_U: NDArray[np.float32]
    largest: float


class Chance:
    """Compares queries with random words. The first query of each length triggers the scoring of random texts of that length."""

    def __init__(
        self,
        gallery: Gallery,
        encoder: QueryEncoder,
        candidates: Callable[[TextFeatures, int], NDArray[np.int64]],
        logit_scale: float,
    ) -> None:
        """`candidates` returns the ascending indices of the videos to score with the text of this number."""
        self._gallery, self._encoder, self._candidates = gallery, encoder, candidates
        self._rounding = logit_scale * ROUNDING
        self._levels: dict[int, _Level] = {}

    def explains(self, text: TextBatch, videos: NDArray[np.int64], score_B: NDArray[np.float32]) -> bool:
        """Whether random words would score as well as this text did with these videos."""
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
        tokenizer = self._encoder.tokenizer
        features = self._encoder.encode_many(
            [tokenizer.random_words(length - tokenizer.empty_length, seed) for seed in range(RANDOM_QUERIES)], quiet=True
        )
        chosen = [self._candidates(features, r) for r in range(RANDOM_QUERIES)]
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
