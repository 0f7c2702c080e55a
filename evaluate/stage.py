"""The evaluation stage: scores a split and writes metrics, ranks, provenance and the report."""

import hashlib
import json
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.base.errors import UserError, check_seed
from data.base.provenance import json_value, provenance
from data.base.whole_files import write_json
from data.base.writable import require_writable_folder
from data.cli.meaning import Meaning, options_without
from data.cli.options_file import OPTIONS_FILE, write_options
from data.compute.device import find_device
from data.compute.processes import ProcessGroup
from data.metrics import DIRECTIONS, RECALL_SUM
from evaluate.bootstrap import intervals
from evaluate.breakdown.figures import breakdown
from evaluate.breakdown.table import format_kinds
from evaluate.breakdown.traits import KIND, video_seconds
from evaluate.compare.table import format_evaluation
from evaluate.exhaustive import score_exhaustively
from evaluate.folder import EVALUATION_PATTERNS, check_out, replacing
from evaluate.guidance.choose import check_choice
from evaluate.guidance.sharpness import sharpness
from evaluate.inputs import EvaluationInputs, Scored, load
from evaluate.options import EvaluateOptions
from evaluate.ranks import RankTables, protocol
from evaluate.report.zero_shot import plan_rows, score_rows
from evaluate.scores.exports import check_exports, require_writable_exports
from evaluate.two_stage.of_run import check_candidates_run, score_in_two_stages
from evaluate.two_stage.rows import format_candidates, ways
from search.index.candidates import require_index
from search.retrieval.cut import cut_figures
from train_head.compiling import announce_compiling
from train_head.heads import Head
from train_head.run import (
    METRICS_FILE,
    TRAINED_WITH,
    other_temperatures,
    recorded_source,
    trained_on,
)

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


def evaluate(options: EvaluateOptions) -> Path:
    """Score all pairs, or those that --candidates-run leaves, write metrics.json, the ranks of all queries and the report to OUT, and
    return OUT.

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
        require_index(options.index, ways(options.candidates_from))
    inputs = load(options, processes)
    processes.agree(_must_agree(options, inputs))
    beside = plan_rows(options, inputs, processes)
    if inputs.first is None:
        scored = score_exhaustively(options, inputs, processes, outputs)
    else:
        scored = score_in_two_stages(options, inputs, processes)
    # What is scored for the report alone comes after the results, which are kept whatever happens to it.
    result = _write_results(options, inputs, scored, start, processes.world_size) if processes.rank == 0 else {}
    if scored.collector is not None:
        zero_shot = score_rows(beside, options, inputs, processes)
        if processes.rank == 0:
            from evaluate.report.page import write_report  # matplotlib takes half a second to load

            run = inputs.evaluated
            collected = scored.collector.collected()
            write_report(
                options.out, result, run.split, run.head, inputs.cache, scored.ranks, collected, options.seed, zero_shot, run.record
            )
    return options.out


def _write_results(options: EvaluateOptions, inputs: EvaluationInputs, scored: Scored, start: float, processes: int) -> dict[str, Any]:
    """Write everything but the report, print the result, and return the content of metrics.json. `start`: when the evaluation began."""
    run = inputs.evaluated
    head, split, figures = run.head, run.split, dict(scored.figures)
    ranks = RankTables.of(split, scored.ranks, video_seconds(inputs.cache, split.videos.ids))
    trained_ids = frozenset().union(*(trained_on(one.name) for one in (run, inputs.first) if one is not None))
    result: dict[str, Any] = {
        "run": options.run,
        "preset": split.preset,
        "sources": list(split.sources),
        "split": split.name,
        "queries": len(split.answers),
        "gallery": len(split.videos.ids),
        "counts": split.counts,
        **cut_figures(inputs.cache, head, split.texts.texts),
        "trained_on": 0 if split.name == "train" else len(trained_ids.intersection(split.videos.ids)),
        "train_videos": run.record.get("train_counts", {}).get("videos_scored"),
        "selected_on": run.record.get("selected_on"),
        "ties": options.ties,
        **{name: figures.pop(name) for name in (*DIRECTIONS, RECALL_SUM)},
        "intervals": intervals(ranks.ranks(), ranks.owners(), options.seed),
        **figures,
        "breakdown": breakdown(ranks, options.seed),
        "processes": processes,
        "protocol": protocol(len(split.answers), len(split.videos.ids)),
        "max_frames": run.max_frames,
        "temperatures": {**head.temperatures(), "instead_of": other_temperatures(head, run.record)},
        "tau_choice": inputs.tau_choice,
        "guidance": sharpness(head, split, options.quiet),
        "products": options.products,
        "seconds": round(time.perf_counter() - start, 2),
        "cache_digest": inputs.cache.digest,
        "weights": inputs.cache.weights,
        "extracted": inputs.cache.provenance,
        TRAINED_WITH: run.trained_with.recorded(),
        "trained": run.record.get("provenance"),
        **recorded_source(head.name),
        "provenance": provenance(options),
    }
    if scored.exports is not None:
        scored.exports.write(result)
    with replacing(options.out, EVALUATION_PATTERNS) as new:
        write_options(new / OPTIONS_FILE, options, "python -m evaluate")
        ranks.write(new)
        write_json(new / METRICS_FILE, result)
    shown = (*ROW, *DIRECTIONS, RECALL_SUM, *(name for name in ("candidates", "two_stage") if result.get(name)))
    print(json.dumps({name: result[name] for name in shown}) if options.json else format_evaluation(result))
    if KIND in result["breakdown"] and not options.json:
        print(format_kinds(result["breakdown"][KIND], options.ties))
    if result["candidates"] and not options.json:
        print(format_candidates(result["candidates"]))
    return result


def _check_options(options: EvaluateOptions) -> None:
    if options.candidates is not None and options.ties == "reference":
        raise UserError("--candidates credits ties by expectation, --ties reference does not: leave one of them out")
    if options.candidates is None and (options.index is not None or options.candidates_from != "frames"):
        raise UserError("--index and --candidates-from are for --candidates: add a number of candidates, such as --candidates 100")
    check_candidates_run(options)
    check_seed(options.seed)
    check_choice(options)
    check_exports(options)


def _must_agree(options: EvaluateOptions, inputs: EvaluationInputs) -> dict[str, Any]:
    """Everything that must be the same in all processes."""
    split = inputs.evaluated.split
    patches = any(run is not None and run.split.videos.patches is not None for run in (inputs.evaluated, inputs.first))
    decisive = options_without(type(options), Meaning.FREE)
    given = {f"--{name.replace('_', '-')}": json_value(getattr(options, name)) for name in decisive}
    captions = hashlib.sha256("\0".join(split.texts.texts).encode()).hexdigest()
    # Compared by content, because the same cache may have another path on another machine.
    content = {
        "the cache": inputs.cache.fingerprint(split.videos.ids, patches),
        "the captions": captions,
        "the head": _digest(inputs.evaluated.head),
    }
    if inputs.first is not None:
        content["the head of --candidates-run"] = _digest(inputs.first.head)
    return given | content | recorded_source(inputs.evaluated.head.name)


def _digest(head: Head) -> str:
    """A digest of the configuration, which holds the temperatures, and the weights."""
    digest = hashlib.sha256(json.dumps(asdict(head.config), sort_keys=True).encode())
    for name, value in sorted(head.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()
