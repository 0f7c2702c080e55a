"""One process of several that take a step of fine-tuning together: `torchrun -m tests.finetune_step CACHE OUT`.

The first process writes the losses and gradients to OUT.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from train_head import TrainOptions
from train_head.finetune import FinetuneTrainer
from train_head.processes import Processes
from train_head.stage import build_head, load, make_trainer


def main(cache: str, out: str) -> None:
    # Clipped gradients would hide a wrong factor.
    torch.nn.utils.clip_grad_norm_ = lambda *_: torch.ones(())
    device = torch.device("cpu")
    processes = Processes.join(device)
    options = TrainOptions(cache=Path(cache), out=Path(out), finetune=True, batch_size=12, max_frames=2, device="cpu", quiet=True)
    loaded = load(options)
    torch.manual_seed(0)
    trainer = make_trainer(build_head(options, loaded.cache), options, loaded, processes)
    assert isinstance(trainer, FinetuneTrainer)
    losses = trainer.step(np.random.default_rng(0).permutation(len(loaded.train.answers))[: options.batch_size])
    named = [*trainer.head.named_parameters(), *trainer.clip.model.named_parameters()]
    if processes.rank == 0:
        save_file({"losses": losses} | {name: value.grad for name, value in named if value.grad is not None}, out)
    processes.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
