"""Trains a grid of runs over one loaded cache and writes a CSV with one row per run: `python -m train_head.sweep`.

Every combination of the option values is trained with every seed. A run keeps the epoch that is best on the validation split, and that
epoch is measured on the split --report-on. Runs with a row in the CSV are not trained again, so an interrupted sweep can continue, and
several sweeps can share a folder, also at the same time.

With --evaluate, each run is evaluated as soon as it is trained, as are earlier runs without results. This starts the third stage as a
command and imports nothing of it.

On a CPU every run uses one thread, and one run per core trains in parallel. That is faster than one run on all cores, since the threads of
a step wait for each other and runs do not. It also makes the bits of a run independent of the number of cores.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from data.base.errors import LostProcess, UserError
from data.base.progress import Progress
from data.base.provenance import provenance
from data.base.scratch import remove_abandoned, scratch_folder
from data.base.version import CHECKOUT
from data.base.whole_files import locked_folder, write_atomically
from data.base.writable import make_folder, require_writable_folder
from data.cache import FeatureCache
from data.cli.command import INTERRUPTED, USER_ERROR
from data.cli.meaning import Meaning, options_with, since_unchanged
from data.cli.options_file import OPTIONS_FILE, write_options
from data.compute.device import find_device
from data.compute.processes import ProcessGroup
from train_head.checks import check_options
from train_head.heads import PairwiseHead, head_class, pairwise_heads
from train_head.options import TrainOptions
from train_head.run import LOG_FILE, METRICS_FILE, RESULTS_FOLDER, patches_for, recorded_source, save_run, write_log
from train_head.settle import HARD_NEGATIVES, settled
from train_head.stage import decisive_options, fit
from train_head.sweep.measure import measure, metric_columns
from train_head.sweep.options import Sweep, expand
from train_head.sweep.rows import DATA, RUNS_FILE, data_digest, read_rows, require_same_data
from train_head.sweep.shared import Shared, load_shared
from train_head.training.first_stage import FirstRun
from train_head.training.workers import in_processes

FEATURES_PREFIX = ".features-"
"""Begins the names of folders in OUT with the features that the processes of a sweep share."""


@dataclass(frozen=True)
class _Run:
    """A run and its name in the CSV."""

    options: TrainOptions
    name: str

    def __str__(self) -> str:
        return self.name


def _reads(run: _Run) -> tuple[int, bool, bool]:
    """What a run reads of the cache, and whether it has a first stage."""
    return run.options.max_frames or 0, head_class(run.options.head).READS_PATCHES, run.options.candidates_run is not None


def sweep(options: Sweep, grid: Sequence[TrainOptions] | None = None, more: Callable[[], bool] = lambda: True) -> Path:
    """Train the missing runs and return runs.csv. Raises UserError for anything the user can fix.

    grid: the runs, instead of those that the options describe.
    more: asked before each run; False starts no more. Those that have started still end.
    """
    given, grid = grid is not None, with_candidates(options, expand(options)) if grid is None else grid
    for run in grid:
        check_options(run)
    if options.processes is not None and options.processes < 1:
        raise UserError(f"--processes {options.processes} must be at least 1")
    device = find_device(options.device)
    require_writable_folder(options.out)
    cache = FeatureCache(options.cache)
    for run in grid:
        patches_for(run.head, cache)
    path = options.out / RUNS_FILE
    before = read_rows(path)
    digest = data_digest(cache, grid[0], options.report_on)
    require_same_data(before, digest, cache, str(path), "--out")
    there = {row["run"] for row in before}
    runs = [_Run(run, name) for name, run in named_runs(grid, cache, options.report_on, device).items()]
    # Runs that read the same features are neighbours, so that memory holds those features alone.
    missing = sorted((run for run in runs if run.name not in there), key=_reads)
    make_folder(options.out)
    remove_abandoned(options.out, FEATURES_PREFIX)
    if not given:
        write_options(options.out / OPTIONS_FILE, options, "python -m train_head.sweep")
    rows: dict[str, dict[str, Any]] = {}
    by_name = {run.name: run for run in runs}
    unevaluated = [run for run in runs if options.evaluate and run.name in there and not _results(options, run).is_file()]
    with Progress("sweep", len(unevaluated) + len(missing), "runs", options.quiet) as progress:
        for evaluated in unevaluated:
            _evaluate(options, evaluated)
            progress.update()
        for _, group in itertools.groupby(missing, key=_reads):
            if not more():
                break
            for row in _train_all(options, cache, device, list(group), more):
                rows[row["run"]] = {**row, DATA: digest}
                # In the order of the grid, not in the order of ending.
                _write_rows(path, [rows[run.name] for run in missing if run.name in rows])
                # Other processes keep training in the meantime.
                if options.evaluate:
                    _evaluate(options, by_name[row["run"]])
                progress.update()
    summary = f"{path}: {len(runs)} runs, {len(rows)} of them trained now"
    if options.evaluate:
        summary += f", {len(rows) + len(unevaluated)} evaluated: python -m evaluate.compare {options.out}"
    print(summary, file=sys.stderr)
    return path


def _train_all(
    options: Sweep, cache: FeatureCache, device: torch.device, runs: Sequence[_Run], more: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Train runs that read the same features, and yield their rows as they end."""
    shared = load_shared(options, cache, device, [run.options for run in runs])
    jobs = itertools.takewhile(lambda _: more(), runs)
    count = options.processes or (1 if device.type != "cpu" else len(os.sched_getaffinity(0)))
    if min(count, len(runs)) == 1:
        with _one_thread():
            yield from (_train_one(shared, run) for run in jobs)
        return
    # In OUT, which has room for the runs: the system's temporary folder may be in memory.
    with scratch_folder(options.out, FEATURES_PREFIX) as folder:
        for _, row in in_processes(count, _train_one, shared.mapped(folder), jobs):
            yield row


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, like the processes of a parallel sweep."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_candidates(options: Sweep, grid: Sequence[TrainOptions]) -> list[TrainOptions]:
    """The runs, with the options of --candidates-run for the heads that it is for. Raises UserError if none of the grid is."""
    given: dict[str, Any] = {
        "candidates_run": options.candidates_run,
        "candidates": options.candidates,
        "hard_negatives": options.hard_negatives,
    }
    taking = {run.head for run in grid if issubclass(head_class(run.head), PairwiseHead)}
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if named and not taking:
        raise UserError(f"{named[0]}: no head of --head scores by candidates: leave the option out, or add {' or '.join(pairwise_heads())}")
    return [replace(run, **given) if run.head in taking else run for run in grid]


def named_runs(grid: Sequence[TrainOptions], cache: FeatureCache, report_on: str, device: torch.device) -> dict[str, TrainOptions]:
    """The runs of a grid, settled, by the names of their rows.

    Several points of a grid may stand for the same run, such as a default and its number, or a recipe and what it says. Raises UserError if
    there is no such --candidates-run.
    """
    firsts = {name: FirstRun.load(name, cache, device) for name in {run.candidates_run for run in grid} if name is not None}
    named: dict[str, TrainOptions] = {}
    for run in (settled(run, cache) for run in grid):
        named.setdefault(run_name(run, cache, report_on, firsts.get(run.candidates_run or "")), run)
    return named


def run_name(run: TrainOptions, cache: FeatureCache, report_on: str, first: FirstRun | None = None) -> str:
    """The name of a run: its head, its seed, and a digest of everything that decides its row. `first`: the run of --candidates-run."""
    # A sweep never trains CLIP, so the options of fine-tuning do not matter.
    decisive = since_unchanged(type(run), decisive_options(run, leave_out=[Meaning.FINETUNING]))
    weights = [] if run.candidates_run is None or first is None else [first.weights_sha256]
    text = json.dumps([decisive, cache.digest, report_on, *recorded_source(run.head).values(), *weights], sort_keys=True)
    # Not every file system takes the colon of package.module:Class.
    return f"{run.head.replace(':', '.')}-seed{run.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _train_one(shared: Shared, run: _Run) -> dict[str, Any]:
    """Train and measure one run, keep it under OUT/NAME, and return its row."""
    loaded, report = shared.loaded, shared.report
    start = _times()
    head, record, log = fit(run.options, loaded, shared.device, ProcessGroup(), keep=False)
    trained = _times()
    measured = measure(head, report, shared.budget, shared.first)
    scored = _times()
    folder = shared.out / run.name
    make_folder(folder)
    write_options(folder / OPTIONS_FILE, replace(run.options, out=folder), "python -m train_head")
    write_log(folder / LOG_FILE, log)
    save_run(folder, head, {**record, f"{report.name}_after": measured.metrics}, loaded.train.videos.ids)
    made_by = provenance(run.options)
    return {
        "run": run.name,
        **{name: getattr(run.options, name) for name in options_with(type(run.options), Meaning.VARIED)},
        "seed": run.options.seed,
        "batch_used": record["batch_size"],
        "best_epoch": record["best_epoch"],
        **metric_columns("val", record["val"]),
        **measured.columns,
        **{name: getattr(run.options, name) for name in ("candidates_run", *HARD_NEGATIVES)},
        "queries": len(report.answers),
        "gallery": len(report.videos.ids),
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
        "training_seconds": round(trained[0] - start[0], 2),
        "training_cpu_seconds": round(trained[1] - start[1], 2),
        "scoring_seconds": round(scored[0] - trained[0], 3),
        "scoring_cpu_seconds": round(scored[1] - trained[1], 3),
        "device": str(shared.device),
        "threads": torch.get_num_threads(),
        "preset": loaded.train.preset,
        "train_videos": loaded.train.counts["videos_scored"],
        "cache_digest": loaded.cache.digest,
        "weights": loaded.cache.weights,
        "commit": made_by["commit"],
        "torch": made_by["versions"]["torch"],
        "date": made_by["date"],
    }


def _results(options: Sweep, run: _Run) -> Path:
    """A file that exists once a run is evaluated."""
    return options.out / run.name / RESULTS_FOLDER / METRICS_FILE


def _evaluate(options: Sweep, run: _Run) -> None:
    """Evaluate a run with the command of the third stage. If that reports a UserError, raises it here."""
    folder = options.out / run.name
    given = {"cache": options.cache, "run": folder, "out": _results(options, run).parent, "split": options.report_on}
    given |= {name: getattr(run.options, name) for name in ("candidates_run", "candidates")}
    given |= {name: getattr(options, name) for name in ("preset", "name", "memory_budget", "device")}
    # As --name=value, because a value may begin with a dash.
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
    command = [sys.executable, "-m", "evaluate", *arguments, "--no-report", "--quiet"]
    # The command must find `evaluate` from the current folder, which relative paths refer to.
    found_here = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command + ["--allow-missing"] * options.allow_missing,
        env={**os.environ, "PYTHONPATH": found_here},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    *before, last = done.stderr.splitlines() or [""]
    if done.returncode == USER_ERROR:
        raise UserError(last.removeprefix("error: "), before)
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    print(done.stderr, file=sys.stderr)
    raise LostProcess(f"the evaluation of {folder} ended with status {done.returncode}: its output is above; sweep again to continue")


def _times() -> tuple[float, float]:
    """Wall-clock seconds and CPU seconds of this process. Other work on the machine affects the first only."""
    return time.perf_counter(), time.process_time()


def _write_rows(path: Path, ended: Sequence[dict[str, Any]]) -> None:
    """Write the rows of this sweep after those in the file, to which another sweep of the same folder may have added."""
    own = {row["run"] for row in ended}
    with locked_folder(path.parent):
        others = [row for row in read_rows(path) if row["run"] not in own]
        write_atomically(path, pd.DataFrame([*others, *ended]).to_csv(index=False))
