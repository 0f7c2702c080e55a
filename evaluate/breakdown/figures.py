"""The metrics of every group of queries, as plain values for metrics.json."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.metrics import DIRECTIONS, Ranks, summary
from evaluate.bootstrap import recall_intervals
from evaluate.breakdown.groups import Groups, groups_by
from evaluate.breakdown.traits import TRAITS
from evaluate.ranks import RankTables


def breakdown(tables: RankTables, seed: int) -> dict[str, Any]:
    """By trait, the groups of queries and their metrics. The kind is left out if no caption has one.

    seed: of the bootstrap behind the intervals of recalls.
    """
    found = {by: groups_by(by, tables.text_to_video, tables.video_to_text) for by in TRAITS}
    return {by: _of_groups(tables.ranks(), groups, seed) for by, groups in found.items() if groups is not None}


def _of_groups(ranks: tuple[Ranks, Ranks], groups: Groups, seed: int) -> dict[str, Any]:
    rows = []
    for group in groups.groups:
        figures = (_figures(select(of, members_Q), seed) for of, members_Q in zip(ranks, group.members, strict=True))
        rows.append({"name": group.name, **dict(zip(DIRECTIONS, figures, strict=True))})
    left_out = dict(zip(DIRECTIONS, groups.left_out, strict=True))
    return {"groups": rows, "left_out": left_out, "further_kinds": groups.further_kinds}


def _figures(ranks: Ranks, seed: int) -> dict[str, Any] | None:
    """The metrics of some queries of one direction, with ties credited by expectation; None if there are no queries."""
    if not len(ranks.query_Q):
        return None
    return {"queries": len(ranks.query_Q), **summary(ranks), "intervals": recall_intervals(ranks, seed)}


def select(ranks: Ranks, members_Q: NDArray[np.bool_]) -> Ranks:
    """The ranks of some queries."""
    return Ranks(ranks.query_Q[members_Q], ranks.best_Q[members_Q], ranks.worst_Q[members_Q])
