"""Which part of a ranking an answer shows: threshold, near-duplicates, pages.

Shape suffixes: B videos, in the order of `videos`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.cache.features import VideoFeatures
from search.query.query import Shown
from search.retrieval.near import mean_vector


class Scored(NamedTuple):
    """Ascending indices of videos [B], and their scores with one query [B]."""

    videos: NDArray[np.int64]
    score_B: NDArray[np.float32]


class Placed(NamedTuple):
    """A video on a page: its rank, its place in the scored videos, and the indices of near-duplicates that are folded into it."""

    rank: int
    place: int
    folded: tuple[int, ...] = ()


def page_of(scored: Scored, shown: Shown, features: VideoFeatures) -> tuple[list[Placed], int]:
    """The results to show, best first, equal scores in the order given; and how many videos reach the threshold."""
    order_B = np.argsort(-scored.score_B, kind="stable")
    if shown.threshold is not None:
        order_B = order_B[scored.score_B[order_B] >= shown.threshold]
    found = len(order_B)
    if shown.fold is None:
        chosen = order_B[shown.skip : shown.skip + shown.top].tolist()
        return [Placed(rank, place) for rank, place in enumerate(chosen, start=shown.skip + 1)], found
    return _folded(scored.videos, order_B.tolist(), shown.skip + shown.top, shown.fold, features)[shown.skip :], found


def _folded(videos: NDArray[np.int64], order: list[int], wanted: int, fold: float, features: VideoFeatures) -> list[Placed]:
    """The first `wanted` results of which none is a near-duplicate of a better one, with those that follow directly folded in."""
    kept: list[Placed] = []
    vectors: list[NDArray[np.float32]] = []
    for place in order:
        number = int(videos[place])
        mean_D = mean_vector(features, number)
        near = np.stack(vectors) @ mean_D if vectors else np.zeros(0, dtype=np.float32)
        if len(near) and near.max() >= fold:
            like = int(near.argmax())
            kept[like] = kept[like]._replace(folded=(*kept[like].folded, number))
        elif len(kept) == wanted:
            break
        else:
            kept.append(Placed(len(kept) + 1, place))
            vectors.append(mean_D)
    return kept
