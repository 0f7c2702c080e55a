"""What a query is compared with, part by part, and how the scores of several parts become one.

A score of a head and a cosine with a picture have different scales, and so have the scores of two texts. So the scores of each part become
standard scores over the videos that are compared: less their mean, divided by their standard deviation. Their weighted sum ranks the
videos. A query of a single part keeps its scores as they are.

Shape suffixes: B videos, D joint dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.query.query import Query
from search.query.wordings import Wordings

NOT_WEIGHT = 0.5
"""Weight of the words that count against a video. The parts that count for it weigh 1 together."""


class Part(NamedTuple):
    """Texts, whose scores are averaged, or a vector that is compared with frames; and the weight of their standard scores."""

    weight: float
    texts: tuple[str, ...] = ()
    vector_D: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Plan:
    """A query, ready to be scored: its parts, and the ascending indices of the videos that it may find."""

    query: Query
    parts: tuple[Part, ...]
    within: NDArray[np.int64] | None
    """None for the whole gallery."""

    @property
    def texts(self) -> list[str]:
        """The texts of all parts."""
        return [text for part in self.parts for text in part.texts]

    @property
    def wanted(self) -> list[Part]:
        """The parts that count for a video."""
        return [part for part in self.parts if part.weight >= 0]

    @property
    def asked_texts(self) -> list[str]:
        """The wordings of the words that are looked for."""
        return [text for part in self.wanted for text in part.texts]

    @property
    def vectors(self) -> list[NDArray[np.float32]]:
        """The vectors of the picture and of the liked moment."""
        return [part.vector_D for part in self.parts if part.vector_D is not None]

    @property
    def plain_text(self) -> str | None:
        """The only text that is scored, if the query has no other part and may find every video."""
        texts = self.texts
        return texts[0] if len(self.parts) == 1 and len(texts) == 1 and self.within is None else None


def parts_of(query: Query, wordings: Wordings, vectors: Sequence[NDArray[np.float32]]) -> tuple[Part, ...]:
    """`vectors`: of the picture and of the liked moment, as far as the query has them."""
    of_words = 1 - query.weight if vectors else 1.0
    of_vectors = query.weight if query.text else 1.0
    parts = [Part(of_words, tuple(wordings.of(query.text)))] if query.text else []
    parts += [Part(of_vectors / len(vectors), vector_D=vector_D) for vector_D in vectors]
    parts += [Part(-NOT_WEIGHT, tuple(wordings.of(query.without)))] if query.without else []
    return tuple(parts)


def combined(parts: Sequence[Part], scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The score of each video [B], from those of each part."""
    if len(parts) == 1:
        return scores[0]
    total_B = np.zeros_like(scores[0])
    for part, score_B in zip(parts, scores, strict=True):
        total_B += np.float32(part.weight) * standard(score_B)
    return total_B


def standard(score_B: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard scores; all 0 if the scores are equal."""
    spread = float(score_B.std())
    return (score_B - score_B.mean()) / np.float32(spread) if spread > 0 else np.zeros_like(score_B)
