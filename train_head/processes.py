"""Training in several processes, started by torchrun: who takes part, and gathering with gradients.

Every process scores its own captions against the videos of all, then has the scores of all captions and takes the same loss. So the
gradient of the gathered scores is the same everywhere, and each process needs its own part of it alone; that of the gathered frames
has a part from every process and is summed, and so are those of the parameters.

Shape suffixes: N entries of this process, M those of all processes together.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; alone unless said otherwise."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: torch.device) -> "Processes":
        """Join those that torchrun started, by nccl on CUDA and by gloo otherwise; alone where there was no torchrun."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), count)

    def leave(self) -> None:
        """End what `join` began, when all have come to this point: a connection that another still uses must not be torn down."""
        if self.count > 1:
            self.wait()
            distributed.destroy_process_group()

    def wait(self) -> None:
        """Wait until all are here."""
        if self.count > 1:
            distributed.barrier()

    def share(self, size: int) -> slice:
        """This process's part of a batch."""
        assert size % self.count == 0
        part = size // self.count
        return slice(self.rank * part, (self.rank + 1) * part)

    def gather(self, own: Tensor, dim: int = 0, summed: bool = False) -> Tensor:
        """The tensors of all processes, one after the other along `dim`, all of the same shape.

        Its gradient is this process's part of that of the whole; with `summed` of the sum of those of all processes.
        """
        if self.count == 1:
            return own
        gathered: Tensor = _Gather.apply(own, self, dim, summed)
        return gathered

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradient of every parameter by its sum over all processes."""
        if self.count > 1:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(flat)
            for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, processes: Processes, dim: int, summed: bool) -> Tensor:
        ctx.processes, ctx.dim, ctx.summed = processes, dim, summed
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(processes.count)]
        distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts, dim=dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient.contiguous()
        if ctx.summed:
            gradient = gradient.clone()
            distributed.all_reduce(gradient)
        own: slice = ctx.processes.share(gradient.shape[ctx.dim])
        return gradient.narrow(ctx.dim, own.start, own.stop - own.start), None, None, None
