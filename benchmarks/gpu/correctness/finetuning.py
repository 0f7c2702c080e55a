"""Training with CLIP itself, on videos that the step renders: the losses, and the memory that --grad-checkpointing saves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.correctness.commands import Word, run
from benchmarks.gpu.correctness.losses import Losses, LossesOnCpu, load_data, take_steps, trainer_of
from benchmarks.gpu.options import ROOT
from benchmarks.gpu.place import Outcome, Place
from demo import generate
from train_head import TrainOptions
from train_head.run import CLIP_FOLDER
from train_head.stage import TrainingData

CLIP = ROOT / "demo" / "clip"
LONGEST_SUM = 2048
"""Most products in one sum of the demo's CLIP: of a convolution with 3 x 3 x 192 weights, and of the last layer."""


def pixel_cache(folder: Path, train: int, device: str) -> Path:
    """Render videos and extract them with their pictures."""
    generate.main(generate.GenerateOptions(folder / "demo", train=train, val=4, test=4, quiet=True))
    videos, annotations = folder / "demo" / "videos", folder / "demo" / "annotations"
    words: list[Word] = [
        "--dataset",
        "demo",
        "--videos",
        videos,
        "--annotations",
        annotations,
        "--model",
        f"local-dir:{CLIP}",
        "--store-pixels",
    ]
    run("extract", *words, "--cache", folder / "cache", "--device", device, "--quiet")
    return folder / "cache"


def finetuning(place: Place) -> Outcome:
    """The step."""
    train, batch, steps, frames = (8, 4, 3, 2) if place.small else (48, 32, 10, 6)
    cache = pixel_cache(place.folder, train, place.device.type)
    options = TrainOptions(cache, place.folder / "run", finetune=True, max_frames=frames, batch_size=batch, lr=1e-4, epochs=2, quiet=True)
    data = load_data(options)
    expected = LossesOnCpu.of(options, data, steps, LONGEST_SUM)
    plain_N, plain_mib = _steps(options, data, steps, place.device)
    recomputed_N, recomputed_mib = _steps(replace(options, grad_checkpointing=True), data, steps, place.device)
    moved = float(np.abs(recomputed_N / plain_N - 1).max())
    holds = {
        "losses are those of the CPU within rounding": expected.holds(plain_N),
        "losses with --grad-checkpointing are, too": expected.holds(recomputed_N),
    }
    figures = expected.figures(plain_N) | {"--grad-checkpointing: largest difference, relative": moved}
    if place.device.type == "cuda":
        figures |= {"peak MiB": plain_mib, "peak MiB with --grad-checkpointing": recomputed_mib}
        holds["--grad-checkpointing takes less memory"] = recomputed_mib < plain_mib
    words: list[Word] = ["--finetune", "--grad-checkpointing", "--max-frames", frames, "--batch-size", batch, "--epochs", 2]
    words += ["--device", place.device.type]
    run("train_head", "--cache", cache, "--out", options.out, *words, "--quiet")
    holds["the command writes the new CLIP"] = (options.out / CLIP_FOLDER).is_dir()
    return Outcome({**figures, "steps": steps, "captions of a step": batch}, holds)


def _steps(options: TrainOptions, data: TrainingData, steps: int, device: torch.device) -> tuple[Losses, float]:
    """The losses of the steps, and on CUDA the peak memory in MiB on top of weights and features."""
    trainer = trainer_of(options, data, device)
    if device.type != "cuda":
        return take_steps(trainer, steps), 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    losses = take_steps(trainer, steps)
    return losses, (torch.cuda.max_memory_allocated() - before) / 2**20
