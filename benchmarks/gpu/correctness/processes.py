"""Training in two processes: on one device, which they share with gloo, or on a device each with nccl; against one process."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.gpu.correctness.bounds import gradient_bound, largest, most
from benchmarks.gpu.correctness.caches import MOST_WORDS, make_cache
from benchmarks.gpu.correctness.commands import Word, run
from benchmarks.gpu.correctness.losses import DRAWS, LossesOnCpu, load_data, take_steps, trainer_of
from benchmarks.gpu.correctness.recorded import first_gradients, read
from benchmarks.gpu.place import Outcome, Place
from train_head import TrainOptions
from train_head.run import LOG_FILE
from train_head.stage import TrainingData

TORCHRUN: list[Word] = ["torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m"]
TINY = 1e-30
"""In place of a bound of 0."""
RECORDED = "benchmarks.gpu.correctness.recorded"


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
    longest_sum = max(4 * dimension, batch * MOST_WORDS)
    bound = LossesOnCpu.of(options, data, steps, longest_sum).widest
    words: list[Word] = ["--cache", cache, "--batch-size", batch, "--lr", 1e-4, "--epochs", 1, "--device", place.device.type, "--quiet"]
    one, two = place.folder / "one", place.folder / "two"
    run(RECORDED, gradients_file(one), "train_head", "--out", one, *words)
    run(*TORCHRUN, RECORDED, gradients_file(two), "train_head", "--out", two, *words, environment=environment)
    losses = [float(pd.read_csv(folder / LOG_FILE)["loss"].to_numpy()[1]) for folder in (one, two)]
    moved = abs(losses[1] / losses[0] - 1)
    by_bound = gradients_by_bound(read(gradients_file(one)), read(gradients_file(two)), shares(options, data, longest_sum * 2.0**-24))
    figures = {"loss of one process": losses[0], "of two": losses[1], "difference, relative": moved, "its bound": bound, "steps": steps}
    holds = {
        "two processes have the loss of one within rounding": bool(np.isfinite(moved)) and moved <= bound,
        "two processes have the gradients of one in the first step within rounding": by_bound <= 1,
    }
    return Outcome({**figures, "largest difference of gradients by its bound": by_bound}, holds)


def gradients_file(out: Path) -> Path:
    """Where the first gradients of the run in this folder are."""
    return out.with_suffix(".safetensors")


def shares(options: TrainOptions, data: TrainingData, share: float) -> dict[str, float]:
    """How far rounding may move the gradient of each parameter in the first step, relative to its largest entry.

    From the CPU, by weights changed at random: see `losses` and `gradient_bound`.
    """
    exact = one_step(options, data, 0.0, 0)
    draws = [one_step(options, data, share, draw) for draw in range(DRAWS)]
    of_all = most(map(largest, exact.values()))
    bounds = {}
    for name, gradient in exact.items():
        own = largest(gradient)
        bounds[name] = gradient_bound(own, most(largest(draw[name] - gradient) for draw in draws), of_all, share) / own if own else 0.0
    return bounds


def one_step(options: TrainOptions, data: TrainingData, share: float, draw: int) -> dict[str, Tensor]:
    """The gradients of one step on the CPU."""
    with first_gradients() as found:
        take_steps(trainer_of(options, data, torch.device("cpu"), share, draw), 1)
    return found


def gradients_by_bound(one: Mapping[str, Tensor], two: Mapping[str, Tensor], shares: Mapping[str, float]) -> float:
    """The largest difference of a parameter's gradients as a share of its bound; infinite if other parameters have gradients."""
    if not one.keys() == two.keys() == shares.keys():
        return float("inf")
    return most(largest(two[name] - gradient) / max(shares[name] * largest(gradient), TINY) for name, gradient in one.items())
