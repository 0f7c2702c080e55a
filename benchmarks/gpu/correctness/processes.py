"""Training in two processes: on one device, which they share with gloo, or on a device each with nccl; against one process."""

import os
from collections.abc import Mapping

import numpy as np
import pandas as pd

from benchmarks.gpu.correctness.caches import MOST_WORDS, make_cache
from benchmarks.gpu.correctness.commands import Word, run
from benchmarks.gpu.correctness.losses import LossesOnCpu, load_data
from benchmarks.gpu.place import Outcome, Place
from train_head import TrainOptions
from train_head.run import LOG_FILE

TORCHRUN: list[Word] = ["torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m"]


def sharing_one_device(place: Place) -> Outcome:
    """Both processes see the first device alone."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return _two_processes(place, {"CUDA_VISIBLE_DEVICES": first})


def one_device_each(place: Place) -> Outcome:
    """Every process has a device of its own."""
    return _two_processes(place, {})


def _two_processes(place: Place, environment: Mapping[str, str]) -> Outcome:
    """Train one epoch with one process and, in this environment, with two."""
    videos, dimension, batch = (40, 16, 8) if place.small else (1200, 128, 64)
    cache = make_cache(place.folder / "cache", videos, dimension).path
    options = TrainOptions(cache, place.folder / "unused", batch_size=batch, lr=1e-4, epochs=1, quiet=True)
    data = load_data(options)
    steps = len(data.train.answers) // batch
    bound = LossesOnCpu.of(options, data, steps, longest_sum=max(4 * dimension, batch * MOST_WORDS)).widest
    words: list[Word] = ["--cache", cache, "--batch-size", batch, "--lr", 1e-4, "--epochs", 1, "--device", place.device.type, "--quiet"]
    one, two = place.folder / "one", place.folder / "two"
    run("train_head", "--out", one, *words)
    run(*TORCHRUN, "train_head", "--out", two, *words, environment=environment)
    losses = [float(pd.read_csv(folder / LOG_FILE)["loss"].to_numpy()[1]) for folder in (one, two)]
    moved = abs(losses[1] / losses[0] - 1)
    figures = {"loss of one process": losses[0], "of two": losses[1], "difference, relative": moved, "its bound": bound, "steps": steps}
    return Outcome(figures, {"two processes have the loss of one within rounding": bool(np.isfinite(moved)) and moved <= bound})
