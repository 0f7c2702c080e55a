"""Analyses for the report: queries worth looking at, hubs, and captions that several videos share.

Shape suffixes: Q queries, K entries kept, B videos.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.metrics import Ranks

QUERIES_A_GROUP = 8
"""Queries in each of the four groups of the report (answered or worst, in two directions). The report promises at most 40 queries."""
HUB_DEPTHS = (5, 10)
LISTED = 10
"""Rows in the tables of hubs and of shared captions."""


@dataclass(frozen=True)
class Chosen:
    """Indices into the Ranks of a direction: some queries with their answer at rank 1, and the queries with the lowest answers."""

    found: list[int]
    worst: list[int]


@dataclass(frozen=True)
class Hubs:
    """How often each video is among the top `depth` of the text-to-video queries."""

    depth: int
    count_B: NDArray[np.int64]
    """N_k of every video, for k = depth: the number of queries that have it in their top k."""
    skewness: float
    """Skewness of N_k: near 0 if counts are even, large if there are hubs (Radovanovic et al. 2010)."""
    top: list[int]
    """The videos with the largest counts, in descending order."""


@dataclass(frozen=True)
class SharedCaption:
    """A caption that describes several videos of the split, and the indices of these videos."""

    caption: str
    videos: list[int]


def choose_queries(ranks: Ranks, seed: int) -> Chosen:
    """Draw some queries with their answer at rank 1, and take the worst queries; ties among the worst keep the query order."""
    found = np.flatnonzero(ranks.worst_Q == 1)
    drawn = np.random.default_rng(seed).permutation(len(found))[:QUERIES_A_GROUP]
    lowest = np.argsort(-ranks.expected, kind="stable")[:QUERIES_A_GROUP]
    return Chosen(np.sort(found[drawn]).tolist(), [int(q) for q in lowest if ranks.worst_Q[q] > 1])


def find_hubs(entry_QK: NDArray[np.int64], videos: int, depth: int) -> Hubs:
    """Count the videos [B] among the top `depth` entries of every query."""
    count_B = np.bincount(entry_QK[:, :depth].ravel(), minlength=videos)
    deviation_B = count_B - count_B.mean()
    spread = float(np.sqrt((deviation_B**2).mean()))
    skewness = float((deviation_B**3).mean()) / spread**3 if spread > 0 else 0.0
    return Hubs(depth, count_B, skewness, np.argsort(-count_B, kind="stable")[:LISTED].tolist())


def shared_captions(captions: Sequence[str], answers: NDArray[np.int64]) -> tuple[list[SharedCaption], float]:
    """Captions that describe several videos, those with the most videos first, and the upper bound they set on text-to-video R@1 (%).

    Captions count as equal if they differ only in letter case and spaces, as they do for the tokenizer. Equal captions get the same
    ranking, so only one of their videos can be at rank 1. Captions "a dog" (video 0), "A dog" (video 1) and "a cat" (video 2) bound
    R@1 by 66.7.
    """
    videos_of: dict[str, Counter[int]] = {}
    first_form: dict[str, str] = {}
    for caption, video in zip(captions, answers.tolist(), strict=True):
        key = " ".join(caption.lower().split())
        first_form.setdefault(key, caption)
        videos_of.setdefault(key, Counter())[video] += 1
    shared = [SharedCaption(first_form[key], sorted(videos)) for key, videos in videos_of.items() if len(videos) > 1]
    most_found = sum(max(videos.values()) for videos in videos_of.values())
    return sorted(shared, key=lambda item: -len(item.videos)), 100 * most_found / len(captions)
