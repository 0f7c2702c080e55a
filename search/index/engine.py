"""What every engine of candidates answers: the videos whose vectors are nearest to a query.

Videos are numbered as in the gallery. Each has one or more vectors, and the nearest of them, by cosine, decides how near the video is.

Shape suffixes: A queries, K videos found, M videos of several lists, D dimension.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Found = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Videos [A, K], nearest first, and their cosines times the query's norm. Missing entries at the end are -1 and minus infinity."""


class Engine(Protocol):
    """Finds the videos nearest to a query. `videos` is their number."""

    videos: int

    def search(self, query_AD: NDArray[np.float32], k: int) -> Found:
        """The k videos nearest to each query. Queries need not have norm 1."""

    def close(self) -> None:
        """Close what the engine is connected to."""


def nearest(found: Sequence[Found], queries: int, k: int) -> Found:
    """Merge lists of shards, requests or processes, which have no video in common; equally near videos come in the order added."""
    video_AM = np.concatenate([np.full((queries, k), -1), *(videos for videos, _ in found)], axis=1)
    near_AM = np.concatenate([np.full((queries, k), -np.inf, dtype=np.float32), *(near for _, near in found)], axis=1)
    order_AK = np.lexsort((video_AM, -near_AM))[:, :k]
    return np.take_along_axis(video_AM, order_AK, axis=1), np.take_along_axis(near_AM, order_AK, axis=1)
