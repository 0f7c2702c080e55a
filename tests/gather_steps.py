"""One process of several that take a step of training together: `torchrun -m tests.gather_steps CACHE OUT`.

The first process writes the losses and gradients of each case to OUT.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from data.compute.processes import ProcessGroup
from tests.training_runs import first_stage_of
from train_head import TrainOptions
from train_head.heads import HEADS
from train_head.settle import settled
from train_head.stage import TrainingData, build_head, load, make_trainer

Case = tuple[str, Literal["auto", "seq-transf", "seq-lstm", "none"], Literal["masked", "authors"], float]
CASES: tuple[Case, ...] = (
    ("glccl", "seq-transf", "masked", 0.0),
    ("xclip", "seq-transf", "masked", 0.0),
    ("wti", "none", "masked", 1.0),
    ("ti", "seq-transf", "masked", 1.0),
    ("dp", "none", "masked", 1.0),
    ("mean", "seq-lstm", "masked", 0.0),
    ("tight", "auto", "masked", 0.0),
    ("tmass", "seq-transf", "masked", 0.0),
    ("glscl", "seq-transf", "masked", 0.0),
    ("ts2", "auto", "masked", 0.0),
    ("tmvm-frames", "seq-transf", "masked", 0.0),
    ("tmvm", "seq-transf", "masked", 0.0),
    ("joint", "auto", "masked", 0.0),
    ("glccl", "seq-transf", "authors", 0.0),
    ("xclip", "none", "authors", 0.0),
    ("wti", "none", "authors", 1.0),
)
"""Heads, temporal encoders, the treatment of padding, and weights of the channel decorrelation."""


def step(options: TrainOptions, loaded: TrainingData, processes: ProcessGroup) -> dict[str, Tensor]:
    """Losses and gradients of one step from weights that are the same everywhere."""
    torch.manual_seed(0)
    head = build_head(options, loaded.cache)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim == 2:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    trainer = make_trainer(head, settled(options, loaded.cache), loaded, processes)
    trainer.prepare()
    losses = trainer.step(np.random.default_rng(0).permutation(len(loaded.train.answers))[: options.batch_size])
    return {"losses": losses} | {name: value.grad for name, value in head.named_parameters() if value.grad is not None}


def main(cache: str, out: str) -> None:
    # Clipped gradients would hide a wrong factor.
    torch.nn.utils.clip_grad_norm_ = lambda *_: torch.ones(())
    with ProcessGroup.joined(torch.device("cpu"), time_limit=60, in_step=True) as processes:
        loaded: dict[tuple[bool, bool], TrainingData] = {}
        found: dict[str, Tensor] = {}
        for head, temporal, padding, cdcr in CASES:
            options = TrainOptions(cache=Path(cache), out=Path(out), head=head, temporal=temporal, batch_size=64, device="cpu", quiet=True)
            options = replace(options, mask_same_video=True, padding=padding, cdcr=cdcr)
            if head in ("tight", "ts2", "joint"):
                # Their cost grows with the square of the batch, or with the tokens of its videos.
                options = replace(options, batch_size=12)
            # The batch may be larger than the 40 videos: several of its captions are of one of them.
            first_stage = first_stage_of(head)
            options = replace(options, **first_stage)
            reads = HEADS[head].READS_PATCHES, bool(first_stage)
            if reads not in loaded:
                loaded[reads] = load(replace(options, batch_size=2))
            found |= {f"{head} {padding} {name}": value for name, value in step(options, loaded[reads], processes).items()}
        if processes.rank == 0:
            save_file(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
