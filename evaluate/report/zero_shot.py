"""Rows of untrained heads beside the run of a report: the same captions, videos, frames and cache.

Where the run has a temperature that an untrained head reads, both have the same one. The differences are paired: see
`evaluate.bootstrap`.

Shape suffixes: A texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.compute.processes import ProcessGroup
from data.metrics import DIRECTIONS, RECALL_NAMES, RECALL_SUM, Metrics, RankCounter, Ranks
from evaluate.bootstrap import RESAMPLES, limits, resample
from evaluate.inputs import EvaluationInputs
from evaluate.options import EvaluateOptions
from train_head.heads import Head, head_class
from train_head.run import ZERO_SHOT, load_head
from train_head.scoring.cost import check_cost, flops_a_pair, work
from train_head.scoring.pairs import RankedScores, score_all_pairs
from train_head.scoring.splits import Split

BESIDE = ("mean", "glccl")
"""The heads of the rows. The untrained form of the run's own head joins them."""
CHEAP_FLOPS = 1e12
"""A row that takes more than this, and more than the run itself, is left out: that is about 10 s on two cores."""
TRAINED_CLIP = (
    "This run trained CLIP too. The cache holds features of the trained CLIP, with which an untrained head is not zero-shot. To compare, "
    "evaluate zero-shot heads on the cache of the original CLIP, and use python -m evaluate.compare"
)


@dataclass(frozen=True)
class PlannedRow:
    """An untrained head to score, and the split as it reads it."""

    head: Head
    split: Split

    @property
    def run(self) -> str:
        """The head as a value of --run."""
        return ZERO_SHOT + self.head.name


@dataclass(frozen=True)
class ZeroShotPlan:
    """The rows to score, and for each row that is left out a sentence that says why."""

    rows: Sequence[PlannedRow] = ()
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class ZeroShotRow:
    """An untrained head on the split of the run."""

    run: str
    temperatures: Mapping[str, float]
    metrics: Metrics
    ranks: tuple[Ranks, Ranks]


@dataclass(frozen=True)
class ZeroShot:
    """The rows of the report, the run's own head first, and why others are left out."""

    rows: Sequence[ZeroShotRow] = ()
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Gain:
    """A metric of the run minus that of an untrained head, in percentage points, and its 95% interval."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class ComparedRow:
    """A row and what the run gains over it, by direction and metric; RSum is under ("", "RSum")."""

    row: ZeroShotRow
    gains: dict[tuple[str, str], Gain] = field(default_factory=dict)


def plan_rows(options: EvaluateOptions, inputs: EvaluationInputs, processes: ProcessGroup) -> ZeroShotPlan:
    """Choose the rows of the report, and say what they cost, before anything is scored. No rows without a report.

    Raises UserError if a row takes a day or more.
    """
    run, split = inputs.evaluated, inputs.evaluated.split
    if not options.report or inputs.first is not None:
        return ZeroShotPlan()
    if "finetuned_from" in run.record:
        return ZeroShotPlan(left_out=[TRAINED_CLIP])
    pairs = len(split.answers) * len(split.videos.ids)
    most_flops = max(CHEAP_FLOPS, flops_a_pair(run.head, split) * pairs)
    rows, left_out = [], []
    for name in dict.fromkeys([run.head.name, *BESIDE]):
        if run.name == ZERO_SHOT + name:
            continue
        if head_class(name).TRAINED_ONLY:
            left_out.append(f"{name} starts at random and scores nothing before training, so there is no row of it untrained")
            continue
        own = run.head.temperatures()
        given = {key: own.get(key) if key in head_class(name).TEMPERATURES else None for key in ("tau", "kappa")}
        head, _ = load_head(
            ZERO_SHOT + name, inputs.cache, run.head.logit_scale.device, run.head.execution, max_frames=run.max_frames, **given
        )
        row = PlannedRow(head, split if head.READS_PATCHES else replace(split, videos=replace(split.videos, patches=None)))
        why_not = _why_not(row, pairs, most_flops)
        if why_not:
            left_out.append(why_not)
        else:
            rows.append(row)
    for row in rows:
        what = f"scoring {len(split.answers):,} x {len(split.videos.ids):,} pairs for a row of the report"
        flops, remedy = flops_a_pair(row.head, row.split) * pairs, "leave the report out with --no-report"
        check_cost(row.head, row.split.texts, row.split.videos, what, flops, remedy, options.quiet, processes)
    return ZeroShotPlan(rows, left_out)


def score_rows(plan: ZeroShotPlan, options: EvaluateOptions, inputs: EvaluationInputs, processes: ProcessGroup) -> ZeroShot:
    """Score all pairs with every planned head. Processes share the videos; the result is complete in process 0."""
    rows = []
    for row in plan.rows:
        split = row.split
        counter = RankCounter(split.answers, len(split.videos.ids), options.ties)
        score_all_pairs(
            row.head,
            split.texts,
            split.videos,
            split.answers,
            [RankedScores(counter)],
            inputs.memory_left,
            options.quiet,
            f"scoring {row.run} for the report",
            processes,
        )
        rows.append(ZeroShotRow(row.run, row.head.temperatures(), counter.metrics(), counter.ranks()))
    return ZeroShot(rows, plan.left_out)


def compared(
    metrics: Mapping[str, Any], ranks: tuple[Ranks, Ranks], answers: NDArray[np.int64], rows: Sequence[ZeroShotRow], seed: int
) -> list[ComparedRow]:
    """What the run gains over each row. `metrics` and `ranks` are the run's, and `answers` [A] the index of each text's video."""
    if not rows:
        return []
    owner_A = np.searchsorted(ranks[1].query_Q, answers)
    ours, found = resample(ranks, owner_A, RESAMPLES, seed, recalls_alone=True), []
    for row in rows:
        theirs = resample(row.ranks, owner_A, RESAMPLES, seed, recalls_alone=True)
        gains = {}
        for direction, name in compared_figures():
            here, there, of_run, of_row = ((of[direction] if direction else of)[name] for of in (ours, theirs, metrics, row.metrics))
            gains[direction, name] = Gain(of_run - of_row, *limits(here - there))
        found.append(ComparedRow(row, gains))
    return found


def compared_figures() -> Iterator[tuple[str, str]]:
    """The metrics that are compared: the recalls of both directions, and RSum under the direction ""."""
    yield from ((direction, name) for direction in DIRECTIONS for name in RECALL_NAMES)
    yield "", RECALL_SUM


def _why_not(row: PlannedRow, pairs: int, most_flops: float) -> str | None:
    """A sentence that says why the row is left out; None if it is not."""
    flops, without = flops_a_pair(row.head, row.split) * pairs, int((row.split.texts.words.length_N == 0).sum())
    if row.head.READS_WORDS and without:
        return f"{row.run} reads words, and {without:,} captions have a sentence feature but no tokens"
    if flops > most_flops:
        return f"{row.run} takes {work(flops)}, more than the run itself: evaluate it on its own with --run {row.run}"
    return None
