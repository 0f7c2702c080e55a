"""Finds the videos nearest to a query in a collection of Milvus.

Shape suffixes: A queries, K videos found, D dimension.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.index.engine import Found
from search.index.milvus.collection import Collection, quoted
from search.index.milvus.kinds import for_limit, widest

MOST_VECTORS = 16_384
"""Most vectors that Milvus returns for a query."""
QUERIES_AT_ONCE = 64
VECTORS_A_VIDEO = 4
"""How many vectors a server that does not group is asked for first, for each video that is wanted."""


class MilvusIndex:
    """The videos of a gallery in a collection. It may hold others too, which are never found."""

    def __init__(self, collection: Collection, ids: Sequence[str], query: dict[str, int]) -> None:
        """`ids`: the gallery, whose order numbers the videos. `query`: parameters of the search, of `IndexPlan.query`."""
        self.videos = len(ids)
        self._collection, self._query = collection, query
        self._index = collection.about().index
        self._number = {video_id: number for number, video_id in enumerate(ids)}
        self._groups = True
        """Whether the server returns the best vector of each video, as far as is known. Old servers ignore the request."""

    def search(self, query_AD: NDArray[np.float32], k: int) -> Found:
        """The k videos nearest to each query."""
        video_AK = np.full((len(query_AD), k), -1)
        near_AK = np.full((len(query_AD), k), -np.inf, dtype=np.float32)
        for first in range(0, len(query_AD), QUERIES_AT_ONCE):
            some = slice(first, first + QUERIES_AT_ONCE)
            for row, found in enumerate(self._search(query_AD[some], k), start=first):
                # Equally near videos come in the order of the gallery.
                ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:k]
                for place, (number, near) in enumerate(ordered):
                    video_AK[row, place], near_AK[row, place] = number, near
        return video_AK, near_AK

    def close(self) -> None:
        """Close the connection."""
        self._collection.milvus.close()

    def _search(self, query_AD: NDArray[np.float32], k: int) -> list[dict[int, float]]:
        """For each query, at least the k nearest videos with their nearness, or all that there are.

        Queries that have found too few videos ask again for twice as many vectors, in twice as many lists; beyond what Milvus returns at
        once, for vectors of videos that were not found yet.
        """
        found: list[dict[int, float]] = [{} for _ in query_AD]
        passed: list[set[str]] = [set() for _ in query_AD]
        """Videos that are not to be found again."""
        lacking = list(range(len(query_AD)))
        limit, share = k if self._groups else VECTORS_A_VIDEO * k, 1
        while lacking:
            limit = min(limit, MOST_VECTORS)
            alone = any(passed[row] for row in lacking)
            still = []
            for rows in [[row] for row in lacking] if alone else [lacking]:
                hits = self._hits(query_AD[rows], limit, share, passed[rows[0]] if alone else set())
                for row, of_row in zip(rows, hits, strict=True):
                    seen = self._take(of_row, found[row])
                    whole = len(of_row) < limit and widest(self._index, self._query, share)
                    if len(found[row]) < k and not whole:
                        still.append(row)
                        if len(of_row) == MOST_VECTORS:
                            passed[row] |= seen
            lacking = still
            limit, share = 2 * limit, 2 * share
        return found

    def _take(self, hits: Sequence[Any], into: dict[int, float]) -> set[str]:
        """Add the best vector of each video of the gallery. Returns the videos of all hits."""
        videos = [hit["entity"]["video"] for hit in hits]
        seen = set(videos)
        if len(seen) < len(videos):
            self._groups = False
        for video, hit in zip(videos, hits, strict=True):
            number = self._number.get(video)
            if number is not None:
                into[number] = max(into.get(number, -np.inf), float(hit["distance"]))
        return seen

    def _hits(self, query_AD: NDArray[np.float32], limit: int, share: int, without: set[str]) -> Sequence[Any]:
        collection = self._collection
        grouped: dict[str, Any] = {"group_by_field": "video"} if self._groups else {}
        found: Sequence[Any] = collection.milvus.ask(
            "search",
            collection.milvus.client.search,
            collection.name,
            data=list(query_AD),
            anns_field="vector",
            limit=limit,
            filter=f"video not in {quoted(sorted(without))}" if without else "",
            output_fields=["video"],
            search_params={"metric_type": "IP", "params": for_limit(self._index, self._query, limit, share)},
            consistency_level="Bounded",
            **grouped,
        )
        return found
