"""A grid of training runs over one loaded cache, one row a run in a CSV: `python -m train_head.sweep`.

Options that may vary take values with commas between them; every combination is trained with every seed. Each run keeps the epoch that is
best on the validation split, and is measured with it on the split of --report-on. A run whose row is in the CSV is not trained again,
so a sweep that was stopped goes on, and several sweeps may share a folder.
"""

import dataclasses
import hashlib
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from data.cache import FeatureCache
from data.command import run_command
from data.device import budget_bytes, find_device
from data.errors import UserError
from data.metrics import Metrics
from data.progress import Progress
from data.provenance import provenance, write_atomically
from train_head.options import TrainOptions
from train_head.pairs import evaluate_pairs
from train_head.processes import Processes
from train_head.run import check_fits, save_run
from train_head.splits import Split, load_split
from train_head.stage import FREE_TO_CHANGE, ONLY_FINETUNE, Loaded, check_options, fit, load, provenance_options

RUNS_FILE = "runs.csv"
VARYING = (
    "head",
    "scores",
    "temporal",
    "temporal_init",
    "csc_weight",
    "csc_data",
    "mask_same_video",
    "max_frames",
    "lr",
    "epochs",
    "batch_size",
)
"""Options that a grid may vary, in the order of its loops."""


@dataclass(frozen=True)
class SweepOptions:
    """Train every combination of the values given, with every seed, over one loaded cache. Values have commas between them."""

    cache: Path
    """Folder of the feature cache."""
    out: Path
    """Folder for runs.csv and the runs. Runs whose rows are there are not trained again."""
    seeds: int = 5
    """Seeds 0, 1, ... of every combination."""
    head: str = "glccl"
    """Heads: see python -m train_head --help, as for what follows."""
    scores: str = "all"
    """Scores of a head, those of one run with a + between them."""
    temporal: str = "seq-transf"
    """seq-transf, none."""
    temporal_init: str = "clip"
    """clip, random."""
    csc_weight: str = "0.5"
    """Weights of the CSC loss."""
    csc_data: str = "both"
    """both, positive, negative."""
    mask_same_video: str = "no"
    """no, yes."""
    max_frames: str = "all"
    """Frames used of each video: numbers, or all that are cached."""
    lr: str = "1e-4"
    """Learning rates."""
    epochs: str = "5"
    """Passes over the training captions."""
    batch_size: str = "128"
    """Captions a step."""
    report_on: Literal["test", "val"] = "test"
    """Split on which the best epoch of every run is measured; it chooses nothing."""
    preset: str | None = None
    """Split protocol, where the cache serves several."""
    allow_missing: bool = False
    """Go on without captions and videos whose features are missing."""
    memory_budget: float | None = None
    """GiB of features kept in memory for each split. Default: half of the machine's memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is one."""
    quiet: bool = False
    """No progress."""


def main(options: SweepOptions) -> Path:
    """Train what is missing and return runs.csv. Raises UserError for what the user can put right."""
    grid = expand(options)
    for run in grid:
        check_options(run)
    device = find_device(options.device)
    cache = FeatureCache(options.cache)
    path = options.out / RUNS_FILE
    rows = _read_rows(path)
    names = {run: run_name(run, cache, options.report_on) for run in grid}
    missing = [run for run in grid if names[run] not in {row["run"] for row in rows}]
    options.out.mkdir(parents=True, exist_ok=True)
    loaded: dict[int | None, tuple[Loaded, Split]] = {}
    with Progress("sweep", len(missing), "runs", options.quiet) as progress:
        # By frames: one number of frames is in memory at a time.
        for run in sorted(missing, key=lambda run: run.max_frames or 0):
            if run.max_frames not in loaded:
                loaded = {run.max_frames: (load(run), _load_report(options, cache, run))}
            rows.append(_train_one(options, run, *loaded[run.max_frames], device, names[run]))
            write_atomically(path, pd.DataFrame(rows).to_csv(index=False))
            progress.update()
    print(f"{path}: {len(grid)} runs, {len(missing)} of them trained now", file=sys.stderr)
    return path


def expand(options: SweepOptions) -> list[TrainOptions]:
    """The options of every run of the grid. Raises UserError for a value that its option does not take."""
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: at least 1")
    values = [_values(name, getattr(options, name)) for name in VARYING]
    shared = TrainOptions(
        cache=options.cache,
        out=options.out,
        preset=options.preset,
        allow_missing=options.allow_missing,
        memory_budget=options.memory_budget,
        device=options.device,
        quiet=True,
    )
    return [
        dataclasses.replace(shared, **dict(zip(VARYING, combination, strict=True)), seed=seed)
        for combination in itertools.product(*values)
        for seed in range(options.seeds)
    ]


def _values(name: str, given: str) -> list[Any]:
    """The values of an option, as TrainOptions takes them."""
    choices: dict[str, dict[str, Any]] = {
        "temporal": {"seq-transf": "seq-transf", "none": "none"},
        "temporal_init": {"clip": "clip", "random": "random"},
        "csc_data": {"both": "both", "positive": "positive", "negative": "negative"},
        "mask_same_video": {"no": False, "yes": True},
    }
    found: list[Any] = []
    for text in given.split(","):
        try:
            if name in choices:
                value = choices[name][text]
            elif name in ("csc_weight", "lr"):
                value = float(text)
            elif name in ("epochs", "batch_size"):
                value = int(text)
            elif name == "max_frames":
                value = None if text == "all" else int(text)
            else:
                value = text
        except (KeyError, ValueError) as error:
            takes = ", ".join(choices[name]) if name in choices else "numbers"
            raise UserError(
                f"--{name.replace('_', '-')} {given}: {text!r} is none of its values ({takes}), with commas between them"
            ) from error
        if value not in found:
            found.append(value)
    return found


def run_name(run: TrainOptions, cache: FeatureCache, report_on: str) -> str:
    """A name for the run: its head and seed for people, and a digest of all that decides its row."""
    # A sweep trains heads alone: how CLIP would be trained decides nothing.
    left_out = {*FREE_TO_CHANGE, "finetune", *ONLY_FINETUNE}
    deciding = {name: value for name, value in provenance_options(run).items() if name not in left_out}
    text = json.dumps([deciding, cache.digest, report_on], sort_keys=True)
    return f"{run.head}-seed{run.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _load_report(options: SweepOptions, cache: FeatureCache, run: TrainOptions) -> Split:
    return load_split(cache, options.report_on, options.preset, budget_bytes(options.memory_budget), run.max_frames, options.allow_missing)


def _train_one(options: SweepOptions, run: TrainOptions, loaded: Loaded, report: Split, device: torch.device, name: str) -> dict[str, Any]:
    """Train and measure one run, keep it under OUT/NAME, and return its row."""
    start = time.perf_counter()
    head, record = fit(run, loaded, device, Processes(), keep=False)
    trained = time.perf_counter()
    check_fits(head, report)
    metrics = evaluate_pairs(head, report.texts, report.videos, report.answers, budget_bytes(options.memory_budget))
    scored = time.perf_counter()
    folder = options.out / name
    folder.mkdir(exist_ok=True)
    save_run(folder, head, {**record, f"{options.report_on}_after": metrics})
    made_by = provenance(options)
    return {
        "run": name,
        **{option: value for option, value in asdict(run).items() if option in VARYING},
        "seed": run.seed,
        "best_epoch": record["best_epoch"],
        **_columns("val", record["val"]),
        **(_columns(options.report_on, metrics) if options.report_on != "val" else {}),
        "queries": len(report.answers),
        "gallery": len(report.videos.ids),
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
        "training_seconds": round(trained - start, 2),
        "scoring_seconds": round(scored - trained, 3),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "preset": loaded.train.preset,
        "train_videos": loaded.train.counts["videos_scored"],
        "cache_digest": loaded.cache.digest,
        "weights": loaded.cache.weights,
        "commit": made_by["commit"],
        "torch": made_by["versions"]["torch"],
        "date": made_by["date"],
    }


def _columns(split: str, metrics: Metrics) -> dict[str, float]:
    short = {"text_to_video": "t2v", "video_to_text": "v2t"}
    flat = {f"{split} {name} {key}": value for direction, name in short.items() for key, value in metrics[direction].items()}
    return flat | {f"{split} RSum": metrics["RSum"]}


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        table = pd.read_csv(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it and sweep again") from error
    if "run" not in table:
        raise UserError(f"{path} is no file of a sweep (it has no column run): name another --out")
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return rows


if __name__ == "__main__":
    run_command(SweepOptions, main, prog="python -m train_head.sweep")
