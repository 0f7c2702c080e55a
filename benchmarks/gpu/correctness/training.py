"""Training on the device against the CPU, and by the command itself a run that is killed and resumed.

Shape suffix: N steps.
"""

import json
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.gpu.correctness.caches import MOST_WORDS, make_cache
from benchmarks.gpu.correctness.commands import Word, python, run
from benchmarks.gpu.correctness.losses import LossesOnCpu, load_data, take_steps, trainer_of
from benchmarks.gpu.options import ROOT
from benchmarks.gpu.place import Outcome, Place
from train_head import TrainOptions
from train_head.run import LOG_FILE, RUN_FILE
from train_head.training.checkpoint import CHECKPOINT_FILE

MARK_S = 12_345.0
"""Seconds that mark an epoch of the checkpoint."""


def training(place: Place) -> Outcome:
    """Losses of every step from one seed; and a run that is killed and resumed."""
    videos, dimension, batch, steps, epochs = (40, 16, 8, 6, 8) if place.small else (1200, 128, 64, 40, 4)
    cache = make_cache(place.folder / "cache", videos, dimension).path
    options = TrainOptions(cache, place.folder / "unused", batch_size=batch, lr=1e-3, epochs=epochs, quiet=True)
    data = load_data(options)
    expected = LossesOnCpu.of(options, data, steps, longest_sum=max(4 * dimension, batch * MOST_WORDS))
    loss_N = take_steps(trainer_of(options, data, place.device), steps)
    holds = {"losses from one seed are those of the CPU within rounding": expected.holds(loss_N)}
    words: list[Word] = ["--cache", cache, "--batch-size", batch, "--lr", 1e-3, "--epochs", epochs, "--device", place.device.type]
    words += ["--quiet", "--checkpoint-steps", 5]
    whole, stopped = place.folder / "whole", place.folder / "stopped"
    run("train_head", "--out", whole, *words)
    holds["the run was killed before its end"] = kill_after_checkpoint(["train_head", "--out", stopped, *words], stopped)
    marked = mark(stopped)
    run("train_head", "--out", stopped, *words, "--resume")
    resumed, uninterrupted = (pd.read_csv(folder / LOG_FILE) for folder in (stopped, whole))
    holds["the resumed run began with the checkpoint"] = continued(resumed, marked)
    # On CUDA, atomic additions have another order in every run.
    tolerance = 0.0 if place.device.type == "cpu" else expected.widest
    moved = apart(resumed, uninterrupted)
    holds["a killed run that is resumed has the losses of an uninterrupted one"] = moved <= tolerance
    figures = {"steps": steps, "epochs of the checkpoint": marked, "resumed run: largest difference, relative": moved}
    return Outcome(expected.figures(loss_N) | figures | {"resumed run: its bound": tolerance}, holds)


def kill_after_checkpoint(words: list[Word], out: Path) -> bool:
    """Start the command and kill it after its first checkpoint within an epoch. Returns whether it was killed before its end."""
    with subprocess.Popen(python(*words), cwd=ROOT) as process:
        while process.poll() is None and not has_steps(out):
            time.sleep(0.002)
        with suppress(ProcessLookupError):
            process.kill()
    return process.returncode == -signal.SIGKILL and not (out / RUN_FILE).exists()


def has_steps(out: Path) -> bool:
    """Whether the folder's checkpoint has steps of an epoch: that between epochs 0 and 1 is of untrained weights."""
    path = out / CHECKPOINT_FILE
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["trainer"]["steps_done"])
    except FileNotFoundError:
        return False


def mark(out: Path) -> int:
    """Mark the epochs that the folder's checkpoint has finished, by seconds that no epoch takes. Returns their number; 0 without one."""
    path = out / CHECKPOINT_FILE
    if not path.exists():
        return 0
    state = json.loads(path.read_text(encoding="utf-8"))
    for row in state["rows"]:
        row["seconds"] = MARK_S
    path.write_text(json.dumps(state), encoding="utf-8")
    return len(state["rows"])


def continued(log: pd.DataFrame, marked: int) -> bool:
    """Whether exactly the first rows of the log are those of the marked checkpoint."""
    return marked > 0 and (log["seconds"] == MARK_S).tolist() == [i < marked for i in range(len(log))]


def apart(log: pd.DataFrame, other: pd.DataFrame) -> float:
    """The largest relative difference of the epochs' losses; infinite if the epochs are others."""
    one, two = (rows["loss"].to_numpy()[1:] for rows in (log, other))
    return float(np.abs(one / two - 1).max()) if one.shape == two.shape else float("inf")
