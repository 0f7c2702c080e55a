"""One process of several that take a step of training together: `torchrun -m tests.gather_steps CACHE OUT HEAD TEMPORAL`.

The first process writes the losses and gradients to OUT.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from train_head import TrainOptions
from train_head.processes import Processes
from train_head.stage import build_head, load
from train_head.trainer import Trainer


def main(cache: str, out: str, head_name: str, temporal: str) -> None:
    options = TrainOptions(
        cache=Path(cache),
        out=Path(out).parent / "run",
        head=head_name,
        temporal="none" if temporal == "none" else "seq-transf",
        batch_size=32,
        epochs=1,
        mask_same_video=True,
        device="cpu",
        quiet=True,
    )
    processes = Processes.join(torch.device("cpu"))
    loaded = load(options)
    torch.manual_seed(0)
    head = build_head(options, loaded.cache)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim == 2:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    trainer = Trainer(head, options, loaded.train, processes)
    # Clipped gradients would hide a wrong factor.
    torch.nn.utils.clip_grad_norm_ = lambda *_: torch.ones(())
    losses = trainer.step(np.random.default_rng(0).permutation(len(loaded.train.answers))[: options.batch_size])
    found = {name: value.grad for name, value in head.named_parameters() if value.grad is not None}
    if processes.rank == 0:
        save_file({"losses": losses, **found}, out)
    processes.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
