"""What an evaluation scores, loaded and checked before the work, and what the scoring gives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from data.cache import FeatureCache
from data.compute.device import budget_bytes, find_device
from data.compute.processes import ProcessGroup, on_this_machine
from data.metrics import Ranks
from evaluate.guidance.choose import choose_tau
from evaluate.options import EvaluateOptions
from evaluate.report.collect import ReportCollector
from evaluate.scores.exports import Exports
from evaluate.two_stage.rows import parse_candidates
from search.retrieval.first_stage import load_first_stage
from train_head.heads import Execution, Head
from train_head.run import RunOptions, check_fits, load_head
from train_head.scoring.splits import Split, load_split

# Bytes of the memory budget that scoring needs, for blocks being scored and blocks waiting to be counted. Measured; grows with D.
SCORING_BYTES, SCORING_BYTES_A_DIMENSION = 2**25, 2**19


@dataclass(frozen=True)
class _Run:
    """A run, loaded."""

    name: str
    """The folder of the run, or zero-shot:HEAD."""
    head: Head
    record: dict[str, Any]
    """Contents of run.json."""
    trained_with: RunOptions
    max_frames: int | None
    """Frames used of each video; None for all."""


@dataclass(frozen=True)
class ReadyRun(_Run):
    """A run, and the split as its head reads it."""

    split: Split


@dataclass(frozen=True)
class EvaluationInputs:
    """The run and the split to evaluate."""

    cache: FeatureCache
    evaluated: ReadyRun
    first: ReadyRun | None
    """The run of --candidates-run. Its split has the same texts and videos."""
    memory_left: int
    """Bytes left for encoded videos."""
    candidates: list[int]
    """Numbers of candidates to evaluate."""
    tau_choice: dict[str, Any] | None
    """How --zero-shot-tau-from chose tau: see `choose_tau`."""


@dataclass(frozen=True)
class Scored:
    """What the scoring gives, in all processes; `figures` is complete in process 0."""

    ranks: tuple[Ranks, Ranks]
    """By the retrieval score, text to video first."""
    figures: dict[str, Any]
    """Entries of metrics.json, the metrics of both directions among them."""
    exports: Exports | None = None
    """Files for other tools, which get their names once the results are known."""
    collector: ReportCollector | None = None
    """The scores that the report shows; None if none is written."""


def load(options: EvaluateOptions, processes: ProcessGroup) -> EvaluationInputs:
    """Load the run and the split that the options name. Raises UserError if they do not fit each other.

    With --zero-shot-tau-from, the processes first share the scoring of the validation split.
    """
    device = find_device(options.device)
    cache = FeatureCache(options.cache)
    execution = Execution(products=torch.bfloat16 if options.products == "bf16" else None)
    head_at = partial(load_head, options.run, cache, device, execution, max_frames=options.max_frames, kappa=options.kappa)
    head, record = head_at(tau=options.tau)
    first = [] if options.candidates_run is None else [_first_run(options.candidates_run, cache, device, execution)]
    trained_with = RunOptions.read(record, options.run)
    max_frames = trained_with.max_frames if options.max_frames is None else options.max_frames
    budget = budget_bytes(options.memory_budget) // on_this_machine()
    features_budget = max(0, budget - SCORING_BYTES - SCORING_BYTES_A_DIMENSION * cache.dimension)
    tau_choice = None
    if options.zero_shot_tau_from is not None:
        tau_choice = choose_tau(options, cache, head, features_budget, processes)
        head, record = head_at(tau=tau_choice["tau"])

    loaded = _Run(options.run, head, record, trained_with, max_frames)
    splits, held = _splits(options, cache, [loaded, *first], features_budget)
    evaluated, *others = (ReadyRun(**vars(run), split=split) for run, split in zip([loaded, *first], splits, strict=True))
    videos, texts = len(evaluated.split.videos.ids), len(evaluated.split.answers)
    candidates = [] if options.candidates is None else parse_candidates(options.candidates, videos, texts if others else 0)
    left = max(0, features_budget - held)
    return EvaluationInputs(cache, evaluated, others[0] if others else None, left, candidates, tau_choice)


def _first_run(name: str, cache: FeatureCache, device: torch.device, execution: Execution) -> _Run:
    """The run of --candidates-run, with the frames and temperatures that it was trained with."""
    found = load_first_stage(name, cache, device, execution)
    return _Run(name, found.head, found.record, found.trained_with, found.max_frames)


def _splits(options: EvaluateOptions, cache: FeatureCache, runs: Sequence[_Run], memory_budget: int) -> tuple[list[Split], int]:
    """The split as each run reads it, and the bytes held for all of them. Runs that read the same frames and words share them.

    Patch tokens take most of the room. They are loaded last, so that they do not displace what else is read. Raises UserError if a run does
    not fit the split.
    """
    reads = [(run.max_frames, run.head.most_words) for run in runs]
    with_patches = {of_run for of_run, run in zip(reads, runs, strict=True) if run.head.READS_PATCHES}
    loaded: dict[tuple[int | None, int | None], Split] = {}
    for of_run in sorted({*reads}, key=lambda of_run: (of_run in with_patches, reads.index(of_run))):
        budget = (memory_budget - sum(map(_bytes_held, loaded.values()))) // (len({*reads}) - len(loaded))
        frames, words = of_run
        loaded[of_run] = load_split(
            cache, options.split, options.preset, budget, frames, options.allow_missing, options.name, words, of_run in with_patches
        )
    splits = []
    for of_run, run in zip(reads, runs, strict=True):
        split = loaded[of_run]
        splits.append(split if run.head.READS_PATCHES else replace(split, videos=replace(split.videos, patches=None)))
    for run, split in zip(runs, splits, strict=True):
        check_fits(run.head, split)
    return splits, sum(map(_bytes_held, loaded.values()))


def _bytes_held(split: Split) -> int:
    return split.texts.words.bytes_held + split.texts.sentences.bytes_held + split.videos.bytes_held
