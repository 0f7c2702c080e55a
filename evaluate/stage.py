"""The evaluation stage: scores all pairs of a split and writes metrics, ranks, provenance and the report."""

import hashlib
import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data.base.errors import UserError, check_seed
from data.base.provenance import json_value, provenance
from data.base.whole_files import write_json
from data.base.writable import require_writable_folder
from data.cache import FeatureCache
from data.cli.meaning import Meaning, options_without
from data.cli.options_file import OPTIONS_FILE, write_options
from data.compute.device import budget_bytes, find_device
from data.compute.processes import ProcessGroup, on_this_machine
from data.metrics import DIRECTIONS, RECALL_SUM, TEXT_TO_VIDEO
from evaluate.bank import BANK_SPLIT, load_bank
from evaluate.bootstrap import intervals
from evaluate.compare.table import format_evaluation
from evaluate.cost import Cost, flops_a_pair, measured, warm_up
from evaluate.folder import EVALUATION_PATTERNS, check_out, replacing
from evaluate.guidance.choose import check_choice, choose_tau
from evaluate.guidance.sharpness import sharpness
from evaluate.options import EvaluateOptions
from evaluate.post_processing import PostProcessing
from evaluate.rankings import Rankings
from evaluate.ranks import RankTables, protocol
from evaluate.report.collect import ReportCollector
from evaluate.scores.exports import Exports, check_exports, require_writable_exports
from evaluate.two_stage.rows import candidate_rows, format_candidates, parse_candidates, vector_kinds
from search.cut import cut_figures
from search.index.candidates import require_index
from train_head.compiling import announce_compiling
from train_head.heads import Execution, Head
from train_head.run import (
    METRICS_FILE,
    TRAINED_WITH,
    RunOptions,
    check_fits,
    check_words,
    load_head,
    other_temperatures,
    recorded_source,
    trained_on,
)
from train_head.scoring.pairs import score_all_pairs
from train_head.scoring.splits import Split, load_split

# Bytes of the memory budget that scoring needs, for blocks being scored and blocks waiting to be counted. Measured; grows with D.
SCORING_BYTES, SCORING_BYTES_A_DIMENSION = 2**25, 2**19
ROW = (
    "run",
    "preset",
    "split",
    "queries",
    "gallery",
    "counts",
    "captions_cut",
    "captions_cut_by_head",
    "train_videos",
    "selected_on",
    "ties",
    "temperatures",
    "guidance",
)
"""Fields of metrics.json that --json prints before the metrics."""


@dataclass(frozen=True)
class EvaluationInputs:
    """The run and the split to evaluate."""

    cache: FeatureCache
    head: Head
    record: dict[str, Any]
    """Contents of run.json."""
    trained_with: RunOptions
    split: Split
    max_frames: int | None
    memory_left: int
    """Bytes left for encoded videos."""
    candidates: list[int]
    """Numbers of candidates to evaluate."""
    tau_choice: dict[str, Any] | None
    """How --zero-shot-tau-from chose tau: see `choose_tau`."""


def evaluate(options: EvaluateOptions) -> Path:
    """Score all pairs, write metrics.json, the ranks of all queries and the report to OUT, and return OUT.

    Under torchrun, the processes share the videos, and rank 0 writes.

    Raises UserError if the cache, run or split does not exist, if the run does not fit the cache, if features are missing, if OUT
    holds other files, or if the processes were given different options or data.
    """
    check_out(options.out, EVALUATION_PATTERNS)
    _check_options(options)
    with ProcessGroup.joined(find_device(options.device), options.process_timeout) as processes:
        if options.index is not None and processes.world_size > 1:
            raise UserError("--index works with one process only: leave it out under torchrun, where each process builds its share")
        with announce_compiling(options.quiet or processes.rank > 0), ExitStack() as outputs:
            return _evaluate(options, processes, outputs)


def _evaluate(options: EvaluateOptions, processes: ProcessGroup, outputs: ExitStack) -> Path:
    """Files that are written while scoring stay open on `outputs`."""
    start = time.perf_counter()
    if processes.rank == 0:
        require_writable_folder(options.out)
        require_writable_exports(options)
        require_index(options.index, vector_kinds(options.candidates_from))
    inputs = load(options, processes)
    processes.agree(_must_agree(options, inputs))
    head, split = inputs.head, inputs.split
    rankings = Rankings(head.score_names(), split.answers, len(split.videos.ids), options.ties)
    bank, memory_left = None, inputs.memory_left
    if options.query_bank is not None:
        if split.name == BANK_SPLIT:
            raise UserError(
                f"--query-bank with --split {split.name}: the bank would contain the queries; leave it out, or use another split"
            )
        bank = load_bank(inputs.cache, split.preset, options.query_bank, options.seed, head.most_words, memory_left, options.name)
        check_words(head, bank, f"split {BANK_SPLIT!r}")
        memory_left -= bank.words.bytes_held + bank.sentences.bytes_held
    post_processing = PostProcessing(head, split, options.dual_softmax, bank, options.ties)
    exports = Exports(options, head, split)
    outputs.enter_context(exports.opened(processes))
    collector = ReportCollector(split.answers, len(split.videos.ids), len(head.score_names()))
    warm_up(head, split)
    with measured(head.logit_scale.device) as cost:
        accumulators = [rankings.accumulator, *post_processing.accumulators, *exports.accumulators]
        accumulators += [collector] if options.report else []
        score_all_pairs(head, split.texts, split.videos, split.answers, accumulators, memory_left, options.quiet, processes=processes)
    post_processed = post_processing.rows(memory_left, options.quiet, processes)
    candidates = candidate_rows(
        inputs.candidates,
        options.candidates_from,
        inputs.cache,
        head,
        split,
        rankings.metrics()[TEXT_TO_VIDEO],
        memory_left,
        options.index,
        processes,
        options.quiet,
    )
    if processes.rank > 0:
        return options.out
    ranks = RankTables.of(split, rankings.ranks())
    result: dict[str, Any] = {
        "run": options.run,
        "preset": split.preset,
        "sources": list(split.sources),
        "split": split.name,
        "queries": len(split.answers),
        "gallery": len(split.videos.ids),
        "counts": split.counts,
        **cut_figures(inputs.cache, head, split.texts.texts),
        "trained_on": 0 if split.name == "train" else len(trained_on(options.run).intersection(split.videos.ids)),
        "train_videos": inputs.record.get("train_counts", {}).get("videos_scored"),
        "selected_on": inputs.record.get("selected_on"),
        "ties": options.ties,
        **rankings.metrics(),
        "intervals": intervals(ranks.ranks(), ranks.owners(), options.seed),
        "scores": rankings.rows(),
        "post_processing": post_processed,
        "candidates": candidates,
        "cost": _cost_row(cost, head, split),
        "processes": processes.world_size,
        "protocol": protocol(len(split.answers), len(split.videos.ids)),
        "max_frames": inputs.max_frames,
        "temperatures": {**head.temperatures(), "instead_of": other_temperatures(head, inputs.record)},
        "tau_choice": inputs.tau_choice,
        "guidance": sharpness(head, split, options.quiet),
        "products": options.products,
        "seconds": round(time.perf_counter() - start, 2),
        "cache_digest": inputs.cache.digest,
        "weights": inputs.cache.weights,
        "extracted": inputs.cache.provenance,
        TRAINED_WITH: inputs.trained_with.recorded(),
        "trained": inputs.record.get("provenance"),
        **recorded_source(head.name),
        "provenance": provenance(options),
    }
    exports.write(result)
    with replacing(options.out, EVALUATION_PATTERNS) as new:
        write_options(new / OPTIONS_FILE, options, "python -m evaluate")
        ranks.write(new)
        write_json(new / METRICS_FILE, result)
    shown = (*ROW, *DIRECTIONS, RECALL_SUM, *(("candidates",) if candidates else ()))
    print(json.dumps({name: result[name] for name in shown}) if options.json else format_evaluation(result))
    if candidates and not options.json:
        print(format_candidates(candidates))
    if options.report:
        from evaluate.report.page import write_report  # matplotlib takes half a second to load

        write_report(options.out, result, split, head, inputs.cache, rankings.ranks(), collector.collected(), options.seed)
    return options.out


def _check_options(options: EvaluateOptions) -> None:
    if options.candidates is not None and options.ties == "reference":
        raise UserError("--candidates credits ties by expectation, --ties reference does not: leave one of them out")
    if options.candidates is None and (options.index is not None or options.candidates_from != "frames"):
        raise UserError("--index and --candidates-from are for --candidates: add a number of candidates, such as --candidates 100")
    check_seed(options.seed)
    check_choice(options)
    check_exports(options)


def _must_agree(options: EvaluateOptions, inputs: EvaluationInputs) -> dict[str, Any]:
    """Everything that must be the same in all processes."""
    # The configuration holds the temperatures of the run.
    weights = hashlib.sha256(json.dumps(asdict(inputs.head.config), sort_keys=True).encode())
    for name, value in sorted(inputs.head.state_dict().items()):
        weights.update(name.encode() + value.cpu().numpy().tobytes())
    decisive = options_without(type(options), Meaning.FREE)
    given = {f"--{name.replace('_', '-')}": json_value(getattr(options, name)) for name in decisive}
    captions = hashlib.sha256("\0".join(inputs.split.texts.texts).encode()).hexdigest()
    # Compared by content, because the same cache may have another path on another machine.
    content = {"the cache": inputs.cache.fingerprint(inputs.split.videos.ids), "the captions": captions, "the head": weights.hexdigest()}
    return given | content | recorded_source(inputs.head.name)


def load(options: EvaluateOptions, processes: ProcessGroup) -> EvaluationInputs:
    """Load the run and the split that the options name. Raises UserError if they do not fit each other.

    With --zero-shot-tau-from, the processes first share the scoring of the validation split.
    """
    device = find_device(options.device)
    cache = FeatureCache(options.cache)
    execution = Execution(products=torch.bfloat16 if options.products == "bf16" else None)
    head_at = partial(load_head, options.run, cache, device, execution, max_frames=options.max_frames, kappa=options.kappa)
    head, record = head_at(tau=options.tau)
    trained_with = RunOptions.read(record, options.run)
    max_frames = trained_with.max_frames if options.max_frames is None else options.max_frames
    budget = budget_bytes(options.memory_budget) // on_this_machine()
    features_budget = max(0, budget - SCORING_BYTES - SCORING_BYTES_A_DIMENSION * cache.dimension)
    tau_choice = None
    if options.zero_shot_tau_from is not None:
        tau_choice = choose_tau(options, cache, head, features_budget, processes)
        head, record = head_at(tau=tau_choice["tau"])
    split = load_split(
        cache, options.split, options.preset, features_budget, max_frames, options.allow_missing, options.name, head.most_words
    )
    check_fits(head, split)
    candidates = [] if options.candidates is None else parse_candidates(options.candidates, len(split.videos.ids))
    left = features_budget - sum(held.bytes_held for held in (split.texts.words, split.texts.sentences, split.videos.frames))
    return EvaluationInputs(cache, head, record, trained_with, split, max_frames, max(0, left), candidates, tau_choice)


def _cost_row(cost: Cost, head: Head, split: Split) -> dict[str, Any]:
    """The cost of scoring. Numbers that vary between runs and machines are under "measured"."""
    queries = len(split.answers)
    return {
        "flops_a_pair": flops_a_pair(head, split),
        "pairs": queries * len(split.videos.ids),
        "device": str(head.logit_scale.device),
        "threads": torch.get_num_threads(),
        "measured": {
            "seconds": cost.seconds,
            "ms_a_query": 1000 * cost.seconds / queries,
            "queries_a_second": queries / cost.seconds,
            "peak_extra_mib": cost.peak_extra_mib,
        },
    }
