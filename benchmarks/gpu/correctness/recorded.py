"""A command whose first gradients are saved: `python -m benchmarks.gpu.correctness.recorded FILE MODULE ARGUMENTS...`.

They are those of all processes together, before they are clipped. Losses and weights say nothing about their scale, which clipping and Adam
undo.
"""

import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@contextmanager
def first_gradients() -> Iterator[dict[str, Tensor]]:
    """Yields what will hold the gradients of the first step taken, by the number of the parameter, on the CPU."""
    found: dict[str, Tensor] = {}
    clip = nn.utils.clip_grad_norm_

    def record(parameters: Sequence[nn.Parameter], most: float) -> Tensor:
        if not found:
            found.update({str(i): x.grad.detach().cpu().clone() for i, x in enumerate(parameters) if x.grad is not None})
        return clip(parameters, most)

    with patch.object(nn.utils, "clip_grad_norm_", record):
        yield found


def read(path: Path) -> dict[str, Tensor]:
    """The gradients of FILE in float64."""
    return {name: gradient.double() for name, gradient in load_file(path).items()}


def main(path: str, module: str, *arguments: str) -> None:
    """Become the command. The first process writes FILE."""
    sys.argv = [module, *arguments]
    with first_gradients() as found:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        finally:
            if found and os.environ.get("RANK", "0") == "0":
                save_file(found, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
