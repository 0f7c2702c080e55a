"""The runs behind docs/design/ablations.md, over several sittings: `python -m experiments.study --world demo --minutes 60`.

All groups of experiments/groups.py are trained as one sweep into OUT. A run with a row in OUT/runs.csv is not trained again. The rows of
all worlds are then gathered in one CSV, from which `python -m experiments.ablations` writes the page.
"""

import itertools
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch

from data.base.errors import UserError
from data.base.progress import duration, say
from data.base.whole_files import locked_folder, write_atomically
from data.base.writable import make_folder, require_writable_file, require_writable_folder
from data.cache import FeatureCache
from data.cli.command import run_command
from data.cli.command_line import About
from data.cli.meaning import DeviceName
from data.cli.options_file import OPTIONS_FILE, write_options
from data.compute.device import find_device
from data.datasets import preset_named
from experiments.groups import Group, chosen_groups, reads_patches, runs_of
from experiments.rows import WORLD, read_rows
from train_head.options import TrainOptions
from train_head.run import frames_of
from train_head.sweep import Sweep
from train_head.sweep.rows import RUNS_FILE, data_digest, require_same_data
from train_head.sweep.runs import named_runs, sweep

ROOT = Path(__file__).parent.parent
REPORT_ON: Literal["test"] = "test"
"""The split that every run is measured on."""
MAKERS = {
    "demo": "pipelines/demo.sh renders and extracts it",
    "fullsize": "python -m experiments.fullsize renders and extracts it",
}


@dataclass(frozen=True)
class StudyOptions:
    """Train the runs of the study that are missing, the most important groups first. Run it again to go on."""

    world: Annotated[Literal["demo", "fullsize"], About.INPUT] = "demo"
    """The set to train on: the demo set, or the same world at the size of MSR-VTT (python -m experiments.fullsize)."""
    cache: Annotated[Path | None, About.INPUT] = None
    """Folder of its feature cache. Default: runs/WORLD/cache."""
    out: Annotated[Path | None, About.OUTPUT] = None
    """Folder for the runs and their runs.csv. Default: runs/study/WORLD."""
    csv: Annotated[Path, About.OUTPUT] = ROOT / "runs" / "study" / "study.csv"
    """The one CSV of all worlds, to which the rows of OUT/runs.csv are added. They replace those of the same runs; other rows stay."""
    seeds: Annotated[int, About.OPTIMIZER] = 5
    """Seeds of every setting: 0, 1, ... More can be added later."""
    minutes: Annotated[float | None, About.MACHINE] = None
    """Start no more runs after this many minutes. Those that are training still end. 0 only says what is missing."""
    only: Annotated[str, About.INPUT] = ""
    """Groups of runs, separated by commas: csc-weight,heads. csc-weight:0:0.5 stands for two settings of a group. Default: all."""
    device: Annotated[DeviceName, About.MACHINE] = "auto"
    """Device to train on. auto takes CUDA if available, else the CPU."""
    processes: Annotated[int | None, About.MACHINE] = None
    """Runs to train in parallel. Default: one per core; 1 on a GPU."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Show no progress."""


@dataclass(frozen=True)
class Plan:
    """The runs of the study by name, with the group that each was first named in, and those without a row."""

    runs: Mapping[str, tuple[Group, TrainOptions]]
    missing: Sequence[str]


def main(options: StudyOptions) -> Path:
    """Train missing runs until all are done or the minutes are over, gather the rows, and return the CSV. Raises UserError."""
    start = time.monotonic()
    limit = math.inf if options.minutes is None else 60 * options.minutes
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds} must be at least 1")
    if not limit >= 0:
        raise UserError(f"--minutes {options.minutes} must be a number of at least 0")
    if options.processes is not None and options.processes < 1:
        raise UserError(f"--processes {options.processes} must be at least 1")
    groups = chosen_groups(options.only)
    runs_folder = ROOT / "runs"
    cache_path = options.cache or runs_folder / options.world / "cache"
    out = options.out or runs_folder / "study" / options.world
    if not cache_path.exists():
        raise UserError(f"--cache {cache_path} is not there: {MAKERS[options.world]}")
    require_writable_folder(out)
    require_writable_file(options.csv, "--csv")
    if options.csv.resolve() == (out / RUNS_FILE).resolve():
        raise UserError(f"--csv {options.csv} is the table of --out itself: name another file")
    gathered = _read_gathered(options.csv)
    device = find_device(options.device)
    cache = FeatureCache(cache_path)
    shared = _by_recipe(TrainOptions(cache_path, out, device=options.device, quiet=True), cache)
    before = read_rows(out / RUNS_FILE, world=options.world) if (out / RUNS_FILE).exists() else pd.DataFrame()
    timed, digest = before if len(before) else gathered[gathered[WORLD] == options.world], data_digest(cache, shared, REPORT_ON)
    _check_cache(before, cache, digest, f"--out {out}", "--out")
    _check_cache(gathered[gathered[WORLD] == options.world], cache, digest, f"--csv {options.csv}", "--csv")
    plan = _plan(groups, shared, options.seeds, cache, device, before)
    count = options.processes or (1 if device.type != "cpu" else len(os.sched_getaffinity(0)))
    _say_plan(plan, timed, count)
    # What an earlier sitting left, should this one be killed.
    _gather(before, options)
    if plan.missing and limit:
        make_folder(out)
        write_options(out / OPTIONS_FILE, options, "python -m experiments.study")
        try:
            sweep(
                Sweep(cache_path, out, options.seeds, device=options.device, processes=options.processes, quiet=options.quiet),
                [run for _, run in plan.runs.values()],
                lambda: time.monotonic() - start < limit,
            )
        finally:
            if (out / RUNS_FILE).exists():
                before = read_rows(out / RUNS_FILE, world=options.world)
                _gather(before, options)
    left = len(plan.runs.keys() - set(before.get("run", ())))
    if left:
        say(f"{left} of {len(plan.runs)} runs are missing: run the same command again to go on")
    if options.csv.exists():
        say(f"the page: python -m experiments.ablations --runs {options.csv}")
        print(options.csv)
    return options.csv


def _by_recipe(shared: TrainOptions, cache: FeatureCache) -> TrainOptions:
    """The options with the recipe of the cache's preset, where it has one."""
    preset = preset_named(cache.listings.select().preset)
    return shared if preset is None else replace(shared, epochs=preset.epochs, batch_size=preset.batch_size, lr=preset.lr)


def _check_cache(rows: pd.DataFrame, cache: FeatureCache, digest: str, where: str, option: str) -> None:
    """Raise UserError if there are rows of another cache, or of other captions or videos in it (`digest`)."""
    found = {"cache_digest": cache.digest, "weights": cache.weights}
    if any(set(rows.get(name, ())) - {value} for name, value in found.items()):
        raise UserError(f"{where} holds runs of another cache, which cannot be compared with those of {cache.path}: name another {option}")
    require_same_data((row for _, row in rows.iterrows()), digest, cache, where, option)


def _plan(groups: Sequence[Group], shared: TrainOptions, seeds: int, cache: FeatureCache, device: torch.device, rows: pd.DataFrame) -> Plan:
    """Name the runs as the sweep does. Says which settings are left out because the cache does not have what they read."""
    frames, left_out = frames_of(cache), []
    fitting = []
    for group in groups:
        lacking = {label for label, setting in group.settings.items() if reads_patches(setting) and cache.patch_settings is None}
        # As many frames as there are, or more, are all.
        same = {label for label, setting in group.settings.items() if setting.get("max_frames", 0) >= frames}
        left_out += [f"{group.name} {label}, which reads patch tokens" for label in sorted(lacking)]
        left_out += [f"{group.name} {label}, where no video has more frames" for label in sorted(same)]
        kept = {label: setting for label, setting in group.settings.items() if label not in lacking | same}
        fitting.append(replace(group, settings=kept))
    if left_out:
        say(f"left out: {'; '.join(left_out)}")
    runs: dict[str, tuple[Group, TrainOptions]] = {}
    for group in fitting:
        named = named_runs(list(runs_of(group, shared, seeds)), cache, REPORT_ON, device)
        runs |= {name: (group, run) for name, run in named.items() if name not in runs}
    done = set(rows.get("run", ()))
    return Plan(runs, [name for name in runs if name not in done])


def _say_plan(plan: Plan, timed: pd.DataFrame, processes: int) -> None:
    """Say how many runs are done and missing, in which groups, and about how long they take by the rows `timed`."""
    say(f"{len(plan.runs) - len(plan.missing)} of {len(plan.runs)} runs are done")
    if not plan.missing:
        return
    by_group = [(name, len(list(own))) for name, own in itertools.groupby(plan.missing, lambda name: plan.runs[name][0].name)]
    seconds = [_seconds(plan.runs[name][1], timed) for name in plan.missing]
    known = [value for value in seconds if value is not None]
    left = duration(sum(known) * len(seconds) / len(known) / processes) if known else ""
    about = f"about {left} with {processes} at a time" if left else "for a time that the first runs will tell"
    say(f"missing, {about}: {', '.join(f'{name} {count}' for name, count in by_group)}")


def _seconds(run: TrainOptions, timed: pd.DataFrame) -> float | None:
    """Seconds that a run takes, by the median of those of its head, or of all."""
    if not {"training_seconds", "scoring_seconds"} <= set(timed):
        return None
    seconds = (timed["training_seconds"] + timed["scoring_seconds"]).dropna()
    if seconds.empty:
        return None
    own = seconds[timed["head"] == run.head]
    return float(statistics.median(own if len(own) else seconds))


def _read_gathered(path: Path) -> pd.DataFrame:
    """The rows of all worlds so far."""
    return read_rows(path) if path.exists() else pd.DataFrame(columns=["run", WORLD])


def _gather(rows: pd.DataFrame, options: StudyOptions) -> None:
    """Add these rows of this world to the CSV of all worlds."""
    if rows.empty:
        return
    make_folder(options.csv.parent, "--csv")
    # A study of another world may have written in the meantime.
    with locked_folder(options.csv.parent):
        gathered = _read_gathered(options.csv)
        others = gathered[(gathered[WORLD] != options.world) | ~gathered["run"].isin(rows["run"])]
        table = pd.concat([others, rows] if len(others) else [rows])
        # By world, so that the order of sittings changes nothing.
        write_atomically(options.csv, table.sort_values(WORLD, kind="stable").to_csv(index=False))


if __name__ == "__main__":
    run_command(
        StudyOptions, main, prog="python -m experiments.study", examples=("--minutes 60", "--world fullsize --only csc-weight,heads")
    )
