"""One process of several that take a step of fine-tuning together: `torchrun -m tests.finetune_step CACHE OUT`.

The first process writes the losses and gradients to OUT.
"""

import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from data.compute.processes import ProcessGroup
from train_head import TrainOptions
from train_head.stage import build_head, load, make_trainer
from train_head.training.finetune import FinetuneTrainer


def step(cache: Path, processes: ProcessGroup) -> dict[str, Tensor]:
    """Losses and gradients of one step of all processes together; every process has them all."""
    options = TrainOptions(cache=cache, out=Path("unused"), finetune=True, batch_size=12, max_frames=2, device="cpu", quiet=True)
    loaded = load(options)
    torch.manual_seed(0)
    trainer = make_trainer(build_head(options, loaded.cache), options, loaded, processes)
    assert isinstance(trainer, FinetuneTrainer)
    # Clipped gradients would hide a wrong factor.
    with patch("torch.nn.utils.clip_grad_norm_"):
        losses = trainer.step(np.random.default_rng(0).permutation(len(loaded.train.answers))[: options.batch_size])
    named = [*trainer.head.named_parameters(), *trainer.clip.model.named_parameters()]
    return {"losses": losses} | {name: value.grad for name, value in named if value.grad is not None}


def main(cache: str, out: str) -> None:
    with ProcessGroup.joined(torch.device("cpu"), time_limit=60, in_step=True) as processes:
        found = step(Path(cache), processes)
        if processes.rank == 0:
            save_file(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
