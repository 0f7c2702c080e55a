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
from train_head import TrainOptions
from train_head.stage import TrainingData, build_head, load
from train_head.training.trainer import Trainer

CASES: tuple[tuple[str, Literal["auto", "seq-transf", "seq-lstm", "none"]], ...] = (
    ("glccl", "seq-transf"),
    ("xclip", "seq-transf"),
    ("wti", "none"),
    ("mean", "seq-lstm"),
    ("tight", "auto"),
)


def step(options: TrainOptions, loaded: TrainingData, processes: ProcessGroup) -> dict[str, Tensor]:
    """Losses and gradients of one step from weights that are the same everywhere."""
    torch.manual_seed(0)
    head = build_head(options, loaded.cache)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim == 2:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    trainer = Trainer(head, options, loaded.train, processes)
    losses = trainer.step(np.random.default_rng(0).permutation(len(loaded.train.answers))[: options.batch_size])
    return {"losses": losses} | {name: value.grad for name, value in head.named_parameters() if value.grad is not None}


def main(cache: str, out: str) -> None:
    # Clipped gradients would hide a wrong factor.
    torch.nn.utils.clip_grad_norm_ = lambda *_: torch.ones(())
    with ProcessGroup.joined(torch.device("cpu"), time_limit=60, in_step=True) as processes:
        loaded: TrainingData | None = None
        found: dict[str, Tensor] = {}
        for head, temporal in CASES:
            options = TrainOptions(cache=Path(cache), out=Path(out), head=head, temporal=temporal, batch_size=64, device="cpu", quiet=True)
            options = replace(options, mask_same_video=True)
            if head == "tight":
                # Its cost grows with the square of the batch.
                options = replace(options, batch_size=12)
            # The batch may be larger than the 40 videos: several of its captions are of one of them.
            loaded = loaded or load(replace(options, batch_size=2))
            found |= {f"{head} {name}": value for name, value in step(options, loaded, processes).items()}
        if processes.rank == 0:
            save_file(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
