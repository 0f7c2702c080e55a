"""Compares results on groups of their queries: by kind of caption, by its length, or by the length of the video."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.base.errors import UserError
from data.base.quoting import path_text, visible
from data.metrics import DIRECTIONS, RECALL_SUM, recall_sum, summary
from evaluate.breakdown.groups import Group, Groups, groups_by
from evaluate.breakdown.table import BY_EXPECTATION, left_out_lines
from evaluate.breakdown.traits import KIND
from evaluate.compare.compared import Compared
from evaluate.compare.results import Result, SeedGroup
from evaluate.ranks import RankTables


@dataclass(frozen=True)
class Division:
    """How the queries of all results are divided, and notes about that."""

    groups: Groups
    notes: Sequence[str]


@dataclass(frozen=True)
class Part:
    """The comparison on one group of queries. `queries`: their number in each direction."""

    name: str
    queries: dict[str, int]
    compared: Compared

    def title(self, by: str) -> str:
        """The name of the group and its size in one line."""
        name = f"kind {visible(self.name)}" if by == KIND else self.name
        captions, videos = self.queries.values()
        return f"{name}: {captions:,} caption{'s' * (captions != 1)}, {videos:,} video{'s' * (videos != 1)}"


def divide(results: Sequence[Result], by: str) -> Division:
    """Divide the queries by a trait, as the first of the results that has it says. They all have the same queries. A result from before the
    captions had kinds has none.

    Raises UserError if the queries differ, if no result says the trait, or if no caption has a kind.
    """
    first = results[0]
    other = next((result for result in results if not result.ranks.same_queries(first.ranks)), None)
    if other is not None:
        raise UserError(f"--by {by}: {other.folder} has other captions or videos than {first.folder}: leave one of them out, or --by {by}")
    known = [result for result in results if by in result.ranks.text_to_video]
    if not known:
        raise UserError(
            f"--by {by}: {first.folder} was written by an earlier version or a fusion, without the {by} of its queries: evaluate again "
            f"with --out {first.folder}, or add a result on the same queries that has them"
        )
    divided = next((result for result in known if by != KIND or (result.ranks.text_to_video[KIND] != "").any()), known[0])
    texts, videos = divided.ranks.text_to_video, divided.ranks.video_to_text
    groups = groups_by(by, texts, videos)
    if groups is None:
        raise UserError(
            f"--by {by}: no caption of {divided.folder} has a kind: add a column kind to the table of captions, extract and evaluate again"
        )
    others = [result for result in known if not result.ranks.text_to_video[by].equals(texts[by])]
    names, verb = ", ".join(path_text(result.folder) for result in others), "gives" if len(others) == 1 else "give"
    differ = [f"{by} of queries as in {path_text(divided.folder)}; {names} {verb} other values"] if others else []
    ties = [BY_EXPECTATION] * any(result.metrics["ties"] == "reference" for result in results)
    return Division(groups, [*left_out_lines(dict(zip(DIRECTIONS, groups.left_out, strict=True)), groups.further_kinds), *differ, *ties])


def compare_parts(compared: Compared, division: Division, seed: int) -> Iterator[Part]:
    """The comparison on each group of queries. `seed`: of the paired bootstrap."""
    for group in division.groups.groups:
        of_part = {
            whole.label: SeedGroup(whole.label, tuple(_restricted(one, group) for one in whole.results)) for whole in compared.groups
        }
        base = None if compared.base is None else of_part[compared.base.label]
        queries = dict(zip(DIRECTIONS, (int(members_Q.sum()) for members_Q in group.members), strict=True))
        yield Part(group.name, queries, Compared.of(list(of_part.values()), base, seed))


def _restricted(result: Result, group: Group) -> Result:
    """A result as if the group's queries were all, with ties credited by expectation.

    It lacks a direction without queries, and RSum if a caption of the group describes a video that is not in it.
    """
    frames = zip((result.ranks.text_to_video, result.ranks.video_to_text), group.members, strict=True)
    tables = RankTables(*(frame[members_Q].reset_index(drop=True) for frame, members_Q in frames))
    figures: dict[str, Any] = {
        direction: summary(ranks) for direction, ranks in zip(DIRECTIONS, tables.ranks(), strict=True) if len(ranks.query_Q)
    }
    if tables.joint():
        figures[RECALL_SUM] = recall_sum(*(figures[direction] for direction in DIRECTIONS))
    shared = {name: value for name, value in result.metrics.items() if name not in (*DIRECTIONS, RECALL_SUM)}
    return replace(result, metrics={**shared, "queries": len(tables.text_to_video), **figures}, ranks=tables)
