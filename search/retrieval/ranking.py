"""Which part of a ranking an answer shows: threshold, near-duplicates, pages.

Shape suffixes: B videos, in the order of `videos`; M videos that are compared at once; K results; D joint dimension.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.cache.features import VideoFeatures
from search.index.candidates import unit_vectors
from search.query.query import Shown

FOLDED_AT_ONCE = 128
"""Videos that are compared with the results before them in one product of matrices."""
ROUNDING = 1e-6
"""By which the cosine of two copies may be less than 1."""


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
    vectors_KD = np.empty((0, 0), dtype=np.float32)
    for first in range(0, len(order), FOLDED_AT_ONCE):
        places = order[first : first + FOLDED_AT_ONCE]
        mean_MD, _ = unit_vectors(features.frames, videos[places], "pooled")
        if not kept:
            vectors_KD = np.empty((min(wanted, len(order)), mean_MD.shape[1]), dtype=np.float32)
        before, own_MM = len(kept), mean_MD @ mean_MD.T
        near_MK = np.concatenate((mean_MD @ vectors_KD[:before].T, np.empty_like(own_MM)), axis=1)
        for place, near_K, own_M, mean_D in zip(places, near_MK, own_MM.T, mean_MD, strict=True):
            like = int(near_K[: len(kept)].argmax()) if kept else 0
            if kept and near_K[like] >= fold - ROUNDING:
                kept[like] = kept[like]._replace(folded=(*kept[like].folded, int(videos[place])))
            elif len(kept) == wanted:
                return kept
            else:
                near_MK[:, len(kept)] = own_M
                vectors_KD[len(kept)] = mean_D
                kept.append(Placed(len(kept) + 1, place))
    return kept
