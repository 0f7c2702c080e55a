"""Training in several processes: gathering with gradients.

Every process scores its own captions against the videos of all, then has the scores of all captions and takes the same loss. So the
gradient of the gathered scores is the same everywhere, and each process needs its own part of it alone; that of the gathered frames
has a part from every process and is summed, and so are those of the parameters.

Shape suffixes: N entries of this process, M those of all processes together, F frames, D joint dimension.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from data.compute.processes import ProcessGroup
from train_head.batches import EncodedFrames


def share(size: int, processes: ProcessGroup) -> slice:
    """This process's part of a batch of this `size`, which is a multiple of their number."""
    assert size % processes.world_size == 0
    part = size // processes.world_size
    return slice(processes.rank * part, (processes.rank + 1) * part)


def gather(own: Tensor, processes: ProcessGroup, dim: int = 0, summed: bool = False) -> Tensor:
    """The tensors of all processes, one after the other along `dim`, all of the same shape.

    Its gradient is this process's part of that of the whole; with `summed` of the sum of those of all processes.
    """
    if processes.world_size == 1:
        return own
    gathered: Tensor = _Gather.apply(own, processes, dim, summed)
    return gathered


def gather_frames(own: EncodedFrames, longest: int, processes: ProcessGroup) -> EncodedFrames:
    """The videos of all processes behind the temporal encoder [M, F, D], padded to the frames of the `longest` of them."""
    if processes.world_size == 1:
        return own
    more = longest - own.mask_BF.shape[1]
    return own.each(lambda tensor: gather(pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, more)), processes, summed=True))


def sum_gradients(parameters: Iterable[nn.Parameter], processes: ProcessGroup) -> None:
    """Replace the gradient of every parameter by its sum over all processes."""
    if processes.world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # One message: each costs a way there and back, however small it is.
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    processes.sum(flat)
    for gradient, summed in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, processes: ProcessGroup, dim: int, summed: bool) -> Tensor:
        ctx.processes, ctx.dim, ctx.summed = processes, dim, summed
        return torch.cat(processes.gather(own), dim=dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient.contiguous()
        if ctx.summed:
            gradient = gradient.clone()
            ctx.processes.sum(gradient)
        own = share(gradient.shape[ctx.dim], ctx.processes)
        return gradient.narrow(ctx.dim, own.start, own.stop - own.start), None, None, None
