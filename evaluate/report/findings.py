"""What the report finds in ranks, best entries and captions: queries to look at, hubs, and captions of several videos.

Shape suffixes: Q queries, K entries kept, B videos.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.metrics import Ranks

QUERIES_A_GROUP = 8
"""So many found and so many worst queries are shown of each direction; 40 over all is the most that a reader was promised."""
HUB_DEPTHS = (5, 10)
LISTED = 10
"""Rows of the tables of hubs and of captions of several videos."""


@dataclass(frozen=True)
class Chosen:
    """Places in a direction's Ranks: some queries found at rank 1, and those whose answer stands lowest."""

    found: list[int]
    worst: list[int]


@dataclass(frozen=True)
class Hubs:
    """How often videos stand among the first K of the queries from text to video."""

    depth: int
    count_B: NDArray[np.int64]
    """N_K of every video."""
    skewness: float
    """Of N_K; 0 is even, and in spaces with hubs it is far above (Radovanovic et al. 2010)."""
    top: list[int]
    """The videos with the largest counts, the largest first."""


@dataclass(frozen=True)
class SharedCaption:
    """A caption that describes several videos of the split, and which."""

    caption: str
    videos: list[int]


def choose_queries(ranks: Ranks, seed: int) -> Chosen:
    """Some queries of a direction at rank 1, drawn by the seed, and the worst; ties of the worst in the order of the queries."""
    found = np.flatnonzero(ranks.worst_Q == 1)
    drawn = np.random.default_rng(seed).permutation(len(found))[:QUERIES_A_GROUP]
    lowest = np.argsort(-ranks.expected, kind="stable")[:QUERIES_A_GROUP]
    return Chosen(np.sort(found[drawn]).tolist(), [int(q) for q in lowest if ranks.worst_Q[q] > 1])


def find_hubs(entry_QK: NDArray[np.int64], videos: int, depth: int) -> Hubs:
    """Hubs among the first `depth` entries of every query."""
    count_B = np.bincount(entry_QK[:, :depth].ravel(), minlength=videos)
    deviation_B = count_B - count_B.mean()
    spread = float(np.sqrt((deviation_B**2).mean()))
    skewness = float((deviation_B**3).mean()) / spread**3 if spread > 0 else 0.0
    return Hubs(depth, count_B, skewness, np.argsort(-count_B, kind="stable")[:LISTED].tolist())


def shared_captions(captions: Sequence[str], answers: NDArray[np.int64]) -> tuple[list[SharedCaption], float]:
    """Captions that read alike to the tokenizer (letter case and spaces aside) and describe several videos, those of most videos first, and
    the highest text-to-video R@1 in percent that they leave: one ranking serves all of their queries, so at rank 1 is one of the videos.
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
