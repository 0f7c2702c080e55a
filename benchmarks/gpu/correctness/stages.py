"""Evaluation and training by the commands themselves, on the device and on the CPU.

Shape suffixes: A texts, B videos, N steps.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.gpu.correctness.caches import MOST_WORDS, make_cache
from benchmarks.gpu.correctness.commands import Word, python, run
from benchmarks.gpu.correctness.losses import LossesOnCpu, load_data, take_steps, trainer_of
from benchmarks.gpu.options import ROOT
from benchmarks.gpu.place import Outcome, Place
from evaluate.ranks import RANKS_FILES
from train_head import TrainOptions
from train_head.run import LOG_FILE, RUN_FILE
from train_head.temperatures import KAPPA
from train_head.training.checkpoint import CHECKPOINT_FILE

SCALE = 100.0
"""The factor of untrained heads' scores."""
ZERO_SHOT = {"mean": 1.0, "glccl": 1 + 2 / KAPPA}
"""Untrained heads, and by how much they amplify the rounding of a cosine. A softmax at temperature kappa changes a weight by the factor
exp(rounding / kappa), above and below its fraction."""


def evaluation(place: Place) -> Outcome:
    """Scores, ranks and metrics of untrained heads."""
    videos, dimension = (40, 32) if place.small else (1000, 512)
    cache = make_cache(place.folder / "cache", videos, dimension).path
    figures: dict[str, dict[str, Any]] = {}
    holds = {}
    for head, amplified in ZERO_SHOT.items():
        found = {device: evaluated(cache, head, device, place.folder) for device in {place.device.type, "cpu"}}
        ours, expected = found[place.device.type], found["cpu"]
        # Roundings of a sum add up as a random walk: eight of its standard deviations.
        rounding = 8 * dimension**0.5 * 2.0**-24 * amplified * SCALE
        moved = float(np.abs(ours.score_AB - expected.score_AB).max())
        holds[f"{head}: scores differ by rounding alone"] = moved <= rounding
        differing = {direction: int((ours.ranks[direction] != expected.ranks[direction]).sum()) for direction in RANKS_FILES}
        holds[f"{head}: metrics are equal, or some ranks are decided by rounding"] = ours.metrics == expected.metrics or any(
            differing.values()
        )
        figures[head] = {
            "largest difference of scores": moved,
            "rounding": rounding,
            **{f"ranks that differ, {direction.replace('_', ' ')}": count for direction, count in differing.items()},
            "metrics equal": ours.metrics == expected.metrics,
            "R@1, text to video": ours.metrics["text_to_video"]["R@1"],
        }
    return Outcome({"heads": figures, "videos": videos, "D": dimension}, holds)


class Evaluated:
    """The results of one evaluation."""

    def __init__(self, folder: Path, scores: Path) -> None:
        self.score_AB: NDArray[np.float32] = np.load(scores)
        self.ranks = {direction: pd.read_parquet(folder / name)["rank"].to_numpy() for direction, name in RANKS_FILES.items()}
        record = json.loads((folder / "metrics.json").read_text())
        self.metrics = {direction: record[direction] for direction in RANKS_FILES}


def evaluated(cache: Path, head: str, device: str, folder: Path) -> Evaluated:
    """Evaluate an untrained head with `python -m evaluate`."""
    out, scores = folder / f"{head}-{device}", folder / f"{head}-{device}.npy"
    words: list[Word] = ["--cache", cache, "--run", f"zero-shot:{head}", "--out", out, "--save-scores", scores, "--no-report", "--quiet"]
    run("evaluate", *words, "--device", device)
    return Evaluated(out, scores)


def training(place: Place) -> Outcome:
    """Losses of every step from one seed; and a run that is killed and resumed."""
    videos, dimension, batch, steps, epochs = (40, 16, 8, 6, 8) if place.small else (1200, 128, 64, 40, 4)
    cache = make_cache(place.folder / "cache", videos, dimension).path
    options = TrainOptions(cache, place.folder / "unused", batch_size=batch, lr=1e-3, epochs=epochs, quiet=True)
    data = load_data(options)
    expected = LossesOnCpu.of(options, data, steps, longest_sum=max(4 * dimension, batch * MOST_WORDS))
    loss_N = take_steps(trainer_of(options, data, place.device), steps)
    holds = {"losses from one seed are those of the CPU within rounding": expected.holds(loss_N)}
    words: list[Word] = [
        "--cache",
        cache,
        "--batch-size",
        batch,
        "--lr",
        1e-3,
        "--epochs",
        epochs,
        "--device",
        place.device.type,
        "--quiet",
    ]
    words += ["--checkpoint-steps", 5]
    whole, stopped = place.folder / "whole", place.folder / "stopped"
    run("train_head", "--out", whole, *words)
    was_stopped = kill_after_checkpoint(["train_head", "--out", stopped, *words], stopped)
    run("train_head", "--out", stopped, *words, "--resume")
    losses = [pd.read_csv(folder / LOG_FILE)["loss"].to_numpy()[1:] for folder in (whole, stopped)]
    moved = float(np.abs(losses[1] / losses[0] - 1).max())
    holds["the run was killed before its end"] = was_stopped
    # On CUDA, atomic additions have another order in every run.
    tolerance = 0.0 if place.device.type == "cpu" else expected.widest
    holds["a killed run that is resumed has the losses of an uninterrupted one"] = moved <= tolerance
    figures = {"steps": steps, "resumed run: largest difference, relative": moved, "resumed run: its bound": tolerance}
    return Outcome(expected.figures(loss_N) | figures, holds)


def kill_after_checkpoint(words: list[Word], out: Path) -> bool:
    """Start the command and kill it after its first checkpoint. Returns whether it was killed before its end."""
    with subprocess.Popen(python(*words), cwd=ROOT) as process:
        while process.poll() is None and not (out / CHECKPOINT_FILE).exists():
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    return not (out / RUN_FILE).exists()
