"""The tables of docs/design/ablations.md, as lines of Markdown."""

import statistics
from collections.abc import Iterator, Sequence

import pandas as pd

from experiments.ablations.claims import AGREEMENT, DISAGREEMENT, MARGIN, RATIO, RSUM, Claim, Comparison, Figure
from experiments.ablations.paired import Difference, differences, interval
from experiments.ablations.reading import RECALLS, SCORING_MS, World
from experiments.ablations.verdicts import Compared, Judged, Verdict, WorldVerdicts
from experiments.groups import GROUPS, Group

RECALL_FIGURES = tuple(Figure(name, f"{{split}} {name}") for name in RECALLS)
KINDS = {"": "all", "one": "one event", "several": "several events", "order": "an order", "whole": "the whole video"}
"""Kinds of captions, as columns name them and as tables do."""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table with a blank line before it."""
    yield from ("", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|")
    yield from (f"| {' | '.join(row)} |" for row in rows)


def claims_table(worlds: Sequence[WorldVerdicts], claims: Sequence[Claim]) -> Iterator[str]:
    """One row for each claim, with its differences and its verdict in each world."""
    columns = [
        "claim",
        "figure",
        "compared",
        *(f"{column}, {world.world.name}" for world in worlds for column in ("difference", "verdict")),
    ]
    rows = []
    for place, claim in enumerate(claims):
        figures = dict.fromkeys(comparison.figure.name for comparison in claim.comparisons)
        cells = [
            f"*Recipe:* {claim.words}" if claim.choice else claim.words,
            ", ".join(figures),
            "<br>".join(map(_compared, claim.comparisons)),
        ]
        for world in worlds:
            judged = world.judged[place]
            cells += ["<br>".join(_said_difference(one, world.seeds) for one in judged.compared), f"**{judged.verdict}**"]
        rows.append(cells)
    yield from table(columns, rows)


def _compared(comparison: Comparison) -> str:
    group = next(group for group in GROUPS if group.name == comparison.group)
    return f"{group.column} {comparison.better} - {comparison.than}"


def _said_difference(compared: Compared, seeds: int) -> str:
    if compared.difference is None:
        return "not measured"
    return said(compared.difference, seeds, compared.comparison.figure.digits)


def said(difference: Difference, seeds: int, digits: int = 1) -> str:
    """A difference with its interval: +1.0 [-0.5, +2.5]. If it is over fewer than `seeds` seeds, this says over how many."""
    if difference.pairs < 2:
        return f"{difference.mean:+.{digits}f} (one seed)"
    fewer = f" ({difference.pairs} seeds)" if difference.pairs < seeds else ""
    return f"{difference.mean:+.{digits}f} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]{fewer}"


def group_table(worlds: Sequence[World], group: Group, split: str) -> Iterator[str]:
    """The settings of a group in every world that has several: recalls, RSum, and its difference from the base."""
    columns = ["set", group.column, "seeds", *(figure.name for figure in (*RECALL_FIGURES, RSUM)), f"RSum against {group.base}"]
    rows = []
    for world in worlds:
        runs = world.of_group(group)
        base = runs.get(group.base)
        for label, own in runs.items():
            cells = [spread(own, figure, split) for figure in (*RECALL_FIGURES, RSUM)]
            paired = [] if base is None or label == group.base else differences(own, base, RSUM, split)
            against = said(interval(paired), len(own)) if paired else "" if label == group.base else "no seeds in common"
            rows.append([world.name, label, str(len(own)), *cells, against])
    yield from table(columns, rows)


def kinds_table(worlds: Sequence[World], group: Group, split: str) -> Iterator[str]:
    """Text-to-video R@1 of the settings of a group by kind of caption; nothing where no run has kinds."""
    kinds = [kind for kind in KINDS if any(_kind_column(split, kind) in world.rows for world in worlds)]
    if kinds == [""]:
        return
    rows = []
    for world in worlds:
        for label, own in world.of_group(group).items():
            cells = [spread(own, Figure(kind, _kind_column(split, kind)), split) for kind in kinds]
            if any(cells[1:]):
                rows.append([world.name, label, *cells])
    if rows:
        yield from table(["set", group.column, *(KINDS[kind] for kind in kinds)], rows)


def _kind_column(split: str, kind: str) -> str:
    return f"{split} t2v R@1{_suffix(kind)}"


def _suffix(kind: str) -> str:
    return f" [{kind}]" if kind else ""


def contrast_table(worlds: Sequence[World], group: Group, without: str, with_: str, split: str) -> Iterator[str]:
    """The margin and the variances without and with CSC, by kind of caption; nothing where no run has them."""
    rows = []
    for world in worlds:
        before, after = (world.of(group.settings[label]) for label in (without, with_))
        for kind, name in KINDS.items():
            for figure in (MARGIN, AGREEMENT, DISAGREEMENT, RATIO):
                of_kind = Figure(figure.name, figure.column + _suffix(kind), figure.digits, figure.factor)
                paired = differences(after, before, of_kind, split)
                if paired:
                    cells = [spread(runs, of_kind, split) for runs in (before, after)]
                    rows.append([world.name, name, figure.name, *cells, said(interval(paired), len(after), figure.digits)])
    if rows:
        yield from table(["set", "captions about", "figure", "without CSC", "with CSC", "difference"], rows)


def cost_table(worlds: Sequence[World], group: Group) -> Iterator[str]:
    """What each head costs to train and to score."""
    columns = ("set", "head", "seeds", "parameters", "training, CPU seconds", "against glccl", "scoring, CPU ms a query", "against glccl")
    rows = []
    for world in worlds:
        runs = world.of_group(group)
        base = runs.get(group.base)
        for label, own in runs.items():
            cells = [world.name, label, str(len(own)), f"{int(own['parameters'].iloc[0]):,}"]
            for column, digits in (("training_cpu_seconds", 1), (SCORING_MS, 2)):
                value, of_base = statistics.median(own[column]), 0.0 if base is None else statistics.median(base[column])
                cells += [f"{value:.{digits}f}", f"{value / of_base:.2f}" if of_base else "not measured"]
            rows.append(cells)
    yield from table(columns, rows)


def spread(runs: pd.DataFrame, figure: Figure, split: str) -> str:
    """Mean ± standard deviation over seeds; nothing where there is no figure."""
    column = figure.column.format(split=split)
    values = (runs[column].dropna() * figure.factor).tolist() if column in runs else []
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{figure.digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{figure.digits}f}"


def claim_sentence(judged: Judged, group: Group) -> str:
    """What was found of the part of a claim that is about a group, by the settings that it was compared with."""
    compared = [one for one in judged.compared if one.comparison.group == group.name]
    # The claim names the better setting, unless there are several.
    several = len({one.comparison.better for one in compared}) > 1
    parts = []
    for verdict in Verdict:
        found = [one.comparison for one in compared if one.verdict == verdict]
        if found and several:
            parts += [f"{verdict} for {each.better} against {each.than}" for each in found]
        elif found:
            parts.append(f"{verdict} against {', '.join(each.than for each in found)}")
    return "; ".join(parts)
