"""The table of text queries that the report lets its reader filter and sort.

Shape suffixes: A texts, Q queries.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.metrics import Ranks
from evaluate.report.cards import OwnCaptions, rank_text, shortened
from evaluate.report.collect import Collected
from train_head.scoring.splits import Split

MOST_ROWS = 1000
"""Rows of the table. A row has up to 1 KB, and MSR-VTT's 1k-A split has 1,000 captions."""
OUTCOMES = {"first": "found first", "ten": "in the first ten", "missed": "not in the first ten"}
"""Where the answer ranks: its name in the page's script, and for people."""


@dataclass(frozen=True)
class QueryRow:
    """A caption, the rank of its video, and the video that ranks first in its place."""

    text: int
    """Its index in the split. A card of this query has the name text-INDEX."""
    caption: str
    length: int
    """Characters of the caption."""
    video_id: str
    rank: float
    outcome: str
    """A key of OUTCOMES."""
    before: float | None
    """The rank with the untrained head that the table compares with; None without one."""
    kind: str
    """The kind of the caption, "" for none."""
    found: str | None
    """The video that ranks first; None if that is the caption's own."""
    found_caption: str
    """A caption of that video."""

    @property
    def gain(self) -> float:
        """Ranks that the answer has gained over the untrained head; 0 without one."""
        return 0.0 if self.before is None else self.before - self.rank


@dataclass(frozen=True)
class QueryTable:
    """The rows, in the order of the split."""

    rows: Sequence[QueryRow]
    queries: int
    """The text queries of the split. If there are more than rows, the rest of the rows are drawn at random."""
    kinds: Sequence[str]
    """The kinds of its captions in alphabetical order; empty if the data set has none."""

    @property
    def some_without_kind(self) -> bool:
        """Whether captions without a kind stand beside others."""
        return bool(self.kinds) and any(not row.kind for row in self.rows)

    @property
    def video_ids(self) -> list[str]:
        """The videos in the table."""
        return [video_id for row in self.rows for video_id in (row.video_id, row.found) if video_id is not None]


def query_table(
    split: Split, ranks: Ranks, before: Ranks | None, collected: Collected, cards: Collection[int], seed: int, most: int = MOST_ROWS
) -> QueryTable:
    """The table of text queries: all of them, or those with cards and others that the seed draws.

    `ranks` and `before`: text to video, by the run and by an untrained head; `cards`: the indices of the texts that have a card.
    """
    # Text to video ranks every text, in order.
    rank_A, before_A = ranks.expected, None if before is None else before.expected
    kinds = split.kinds or ("",) * len(rank_A)
    rows = []
    for text in _chosen(len(rank_A), cards, seed, most).tolist():
        answer, first, rank = int(split.answers[text]), int(collected.videos_of_texts.entry_QK[text, 0]), float(rank_A[text])
        rows.append(
            QueryRow(
                text,
                shortened(split.texts.texts[text]),
                len(split.texts.texts[text]),
                split.videos.ids[answer],
                rank,
                outcome(rank),
                None if before_A is None else float(before_A[text]),
                kinds[text],
                None if first == answer else split.videos.ids[first],
                "" if first == answer else OwnCaptions.of(split, first, 1).shown[0],
            )
        )
    return QueryTable(rows, len(rank_A), sorted({row.kind for row in rows} - {""}))


def outcome(rank: float) -> str:
    """The key of OUTCOMES for a rank, which ties may put between two numbers."""
    return "first" if rank == 1 else "ten" if rank <= 10 else "missed"


def change_text(row: QueryRow) -> str:
    """The gain of a row for people: "+3", "-1.5", or "0"."""
    return "0" if row.gain == 0 else f"{'+' if row.gain > 0 else '-'}{rank_text(abs(row.gain))}"


def _chosen(queries: int, cards: Collection[int], seed: int, most: int) -> NDArray[np.int64]:
    shown_A = np.zeros(queries, dtype=bool)
    shown_A[list(cards)] = True
    others = np.flatnonzero(~shown_A)
    left = max(0, most - int(shown_A.sum()))
    shown_A[np.random.default_rng(seed).permutation(others)[:left]] = True
    return np.flatnonzero(shown_A)
