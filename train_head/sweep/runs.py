"""Trains a grid of runs over one loaded cache and writes a CSV with one row per run: `python -m train_head.sweep`.

Every combination of the option values is trained with every seed. A run keeps the epoch that is best on the validation split, and that
epoch is measured on the split --report-on. Runs with a row in the CSV are not trained again, so an interrupted sweep can continue, and
several sweeps can share a folder.

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
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pandas as pd
import torch

from data.base.errors import LostProcess, UserError
from data.base.progress import Progress, say
from data.base.provenance import provenance
from data.base.version import CHECKOUT
from data.base.whole_files import write_atomically
from data.base.writable import make_folder, require_writable_folder
from data.cache import FeatureCache
from data.cache.mapped import map_texts, map_videos
from data.cli.command import INTERRUPTED, USER_ERROR
from data.cli.meaning import Meaning, options_with, since_unchanged
from data.cli.options_file import OPTIONS_FILE, write_options
from data.compute.device import budget_bytes, find_device
from data.compute.processes import ProcessGroup
from data.metrics import RECALL_SUM, TEXT_TO_VIDEO, VIDEO_TO_TEXT, Metrics
from train_head.checks import check_options
from train_head.compiling import announce_compiling, compile_loops
from train_head.heads import Head, PairwiseHead, head_class
from train_head.options import TrainOptions
from train_head.run import METRICS_FILE, RESULTS_FOLDER, check_fits, patches_for, recorded_source, save_run
from train_head.scoring.cost import check_cost, flops_a_pair
from train_head.scoring.pairs import evaluate_pairs
from train_head.scoring.splits import Split, load_split
from train_head.settle import settled, start_lines
from train_head.stage import TrainingData, batches_line, build_head, check_validation, decisive_options, fit, load
from train_head.sweep.options import Sweep, expand
from train_head.training.cost import say_step_cost
from train_head.training.trainer import fitting_batch
from train_head.training.workers import in_processes

RUNS_FILE = "runs.csv"


@dataclass(frozen=True)
class _Shared:
    """The data that all runs with one value of --max-frames share."""

    out: Path
    report_on: Literal["test", "val"]
    budget: int
    loaded: TrainingData
    report: Split
    device: torch.device


@dataclass(frozen=True)
class _Run:
    """A run and its name in the CSV."""

    options: TrainOptions
    name: str

    def __str__(self) -> str:
        return self.name


def _reads(run: _Run) -> tuple[int, bool]:
    """What a run reads of the cache."""
    return run.options.max_frames or 0, head_class(run.options.head).READS_PATCHES


def sweep(options: Sweep, grid: Sequence[TrainOptions] | None = None, more: Callable[[], bool] = lambda: True) -> Path:
    """Train the missing runs and return runs.csv. Raises UserError for anything the user can fix.

    grid: the runs, instead of those that the options describe.
    more: asked before each run; False starts no more. Those that have started still end.
    """
    given, grid = grid is not None, expand(options) if grid is None else grid
    for run in grid:
        kind = head_class(run.head)
        if issubclass(kind, PairwiseHead) and kind.HARD_NEGATIVES_ONLY:
            raise UserError(
                f"--head {run.head}: it is trained on the candidates of another run, and a sweep has none: train it with python -m "
                "train_head --candidates-run RUN"
            )
        check_options(run)
    if options.processes is not None and options.processes < 1:
        raise UserError(f"--processes {options.processes} must be at least 1")
    device = find_device(options.device)
    require_writable_folder(options.out)
    cache = FeatureCache(options.cache)
    for run in grid:
        patches_for(run.head, cache)
    path = options.out / RUNS_FILE
    before = _read_rows(path)
    there = {row["run"] for row in before}
    # Several points of a grid may stand for the same run, such as a default and its number, or a recipe and what it says.
    named: dict[str, _Run] = {}
    for run in (settled(run, cache) for run in grid):
        name = run_name(run, cache, options.report_on)
        named.setdefault(name, _Run(run, name))
    runs = list(named.values())
    # Runs that read the same features are neighbours, so that memory holds those features alone.
    missing = sorted((run for run in runs if run.name not in there), key=_reads)
    make_folder(options.out)
    if not given:
        write_options(options.out / OPTIONS_FILE, options, "python -m train_head.sweep")
    rows: dict[str, dict[str, Any]] = {}
    unevaluated = [run.name for run in runs if options.evaluate and run.name in there and not _results(options, run.name).is_file()]
    with Progress("sweep", len(unevaluated) + len(missing), "runs", options.quiet) as progress:
        for name in unevaluated:
            _evaluate(options, name)
            progress.update()
        for _, group in itertools.groupby(missing, key=_reads):
            if not more():
                break
            for row in _train_all(options, cache, device, list(group), more):
                rows[row["run"]] = row
                # In the order of the grid, not in the order of ending.
                ended = [rows[run.name] for run in missing if run.name in rows]
                write_atomically(path, pd.DataFrame([*before, *ended]).to_csv(index=False))
                # Other processes keep training in the meantime.
                if options.evaluate:
                    _evaluate(options, row["run"])
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
    first = runs[0].options
    budget = budget_bytes(options.memory_budget)
    patches = head_class(first.head).READS_PATCHES
    report = load_split(
        cache, options.report_on, options.preset, budget, first.max_frames, options.allow_missing, options.name, patches=patches
    )
    shared = _Shared(options.out, options.report_on, budget, load(first), report, device)
    for line in dict.fromkeys(line for run in runs for line in start_lines(run.options, cache, quiet=True)):
        say(line)
    _say_batches([run.options for run in runs], shared.loaded.train)
    with announce_compiling(options.quiet):
        # Compile once here; the processes then load the loops from disk.
        for run in {run.options.head: run.options for run in runs}.values():
            head = build_head(run, shared.loaded.cache).to(device)
            # All splits of all heads, before the first run: the report's would else be refused after a training.
            for split in (shared.loaded.train, shared.loaded.select, report):
                check_fits(head, split)
            compile_loops(head, shared.loaded.train)
            batch = fitting_batch(run.batch_size, len(shared.loaded.train.videos.ids), 1)
            say_step_cost(head, shared.loaded.train, batch, len(shared.loaded.train.answers) // batch * run.epochs)
            check_validation(replace(run, quiet=options.quiet), shared.loaded.select, head, times=run.epochs + 1)
            _check_report(report, head, options.quiet)
    jobs = itertools.takewhile(lambda _: more(), runs)
    count = options.processes or (1 if device.type != "cpu" else len(os.sched_getaffinity(0)))
    if min(count, len(runs)) == 1:
        with _one_thread():
            yield from (_train_one(shared, run) for run in jobs)
        return
    # In OUT, which has room for the runs: the system's temporary folder may be in memory.
    with TemporaryDirectory(dir=options.out, prefix=".features-") as folder:
        for _, row in in_processes(count, _train_one, _map(shared, Path(folder)), jobs):
            yield row


def _check_report(report: Split, head: Head, quiet: bool) -> None:
    """Say what it takes to score all pairs of the split that a run reports, or raise UserError if that is too much."""
    texts, videos = len(report.answers), len(report.videos.ids)
    what = f"scoring {texts:,} x {videos:,} pairs of split {report.name!r} after each run"
    remedy = f"name fewer videos as split {report.name!r}" + (", or use --report-on val" if report.name == "test" else "")
    check_cost(head, report.texts, report.videos, what, flops_a_pair(head, report) * texts * videos, remedy, quiet)


def _say_batches(runs: Sequence[TrainOptions], train: Split) -> None:
    """Say that a batch larger than the split is reduced. Raises UserError for several such sizes, which would give the same runs."""
    larger = {run.batch_size: run for run in runs if run.batch_size > len(train.videos.ids)}
    if len(larger) > 1:
        raise UserError(
            f"--batch-size {' and '.join(map(str, larger))} are more than the {len(train.videos.ids)} training videos and would be the "
            "same: name one of them"
        )
    for asked, run in larger.items():
        say(batches_line(run, train, fitting_batch(asked, len(train.videos.ids), 1)))


def _map(shared: _Shared, folder: Path) -> _Shared:
    """The same data with its features in files of `folder`, which other processes map into memory."""

    def mapped(split: Split, name: str) -> Split:
        own = folder / name
        own.mkdir()
        return replace(split, texts=map_texts(split.texts, own), videos=map_videos(split.videos, own))

    loaded = shared.loaded
    loaded = replace(loaded, train=mapped(loaded.train, "train"), select=mapped(loaded.select, "select"))
    return replace(shared, loaded=loaded, report=mapped(shared.report, "report"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, like the processes of a parallel sweep."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_name(run: TrainOptions, cache: FeatureCache, report_on: str) -> str:
    """The name of a run: its head, its seed, and a digest of everything that decides its row."""
    # A sweep never trains CLIP, so the options of fine-tuning do not matter.
    decisive = since_unchanged(type(run), decisive_options(run, leave_out=[Meaning.FINETUNING]))
    text = json.dumps([decisive, cache.digest, report_on, *recorded_source(run.head).values()], sort_keys=True)
    # Not every file system takes the colon of package.module:Class.
    return f"{run.head.replace(':', '.')}-seed{run.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _train_one(shared: _Shared, run: _Run) -> dict[str, Any]:
    """Train and measure one run, keep it under OUT/NAME, and return its row."""
    loaded, report = shared.loaded, shared.report
    start = _times()
    head, record = fit(run.options, loaded, shared.device, ProcessGroup(), keep=False)
    trained = _times()
    metrics = evaluate_pairs(head, report.texts, report.videos, report.answers, shared.budget)
    scored = _times()
    folder = shared.out / run.name
    make_folder(folder)
    write_options(folder / OPTIONS_FILE, replace(run.options, out=folder), "python -m train_head")
    save_run(folder, head, {**record, f"{shared.report_on}_after": metrics}, loaded.train.videos.ids)
    made_by = provenance(run.options)
    return {
        "run": run.name,
        **{name: getattr(run.options, name) for name in options_with(type(run.options), Meaning.VARIED)},
        "seed": run.options.seed,
        "batch_used": record["batch_size"],
        "best_epoch": record["best_epoch"],
        **_columns("val", record["val"]),
        **(_columns(shared.report_on, metrics) if shared.report_on != "val" else {}),
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


def _results(options: Sweep, run: str) -> Path:
    """A file that exists once a run is evaluated."""
    return options.out / run / RESULTS_FOLDER / METRICS_FILE


def _evaluate(options: Sweep, run: str) -> None:
    """Evaluate a run with the command of the third stage. If that reports a UserError, raises it here."""
    given = {"cache": options.cache, "run": options.out / run, "out": _results(options, run).parent, "split": options.report_on}
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
    raise LostProcess(
        f"the evaluation of {options.out / run} ended with status {done.returncode}: its output is above; sweep again to continue"
    )


def _times() -> tuple[float, float]:
    """Wall-clock seconds and CPU seconds of this process. Other work on the machine affects the first only."""
    return time.perf_counter(), time.process_time()


def _columns(split: str, metrics: Metrics) -> dict[str, float]:
    short = {TEXT_TO_VIDEO: "t2v", VIDEO_TO_TEXT: "v2t"}
    flat = {f"{split} {name} {key}": value for direction, name in short.items() for key, value in metrics[direction].items()}
    return flat | {f"{split} {RECALL_SUM}": metrics[RECALL_SUM]}


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        table = pd.read_csv(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it and sweep again") from error
    if "run" not in table:
        raise UserError(f"{path} is not from a sweep (it has no column run): name another --out")
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return rows
