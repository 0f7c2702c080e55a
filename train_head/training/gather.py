"""Training in several processes: differentiable gathering.

Every rank scores its own captions against the videos of all ranks. The scores are then gathered, and every rank computes the same loss.
Gradients of the gathered scores are therefore equal on all ranks, and each rank keeps its own share. Gradients of the gathered frames, and
of the parameters, are partial on each rank and are summed.

Shape suffixes: A texts of this process, M entries of all processes, L words, F frames, R words of several texts, D joint dimension.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from data.compute.processes import ProcessGroup
from data.compute.staging import to_device
from train_head.batches import EncodedFrames, TextBatch


def share(size: int, processes: ProcessGroup) -> slice:
    """This rank's part of a batch. `size` must be a multiple of the number of processes."""
    assert size % processes.world_size == 0
    part = size // processes.world_size
    return slice(processes.rank * part, (processes.rank + 1) * part)


def gather(own: Tensor, processes: ProcessGroup, dim: int = 0, summed: bool = False) -> Tensor:
    """Concatenate the tensors of all ranks along `dim`. All must have the same shape.

    In the backward pass each rank takes its part of the gradient, which must be the same on all ranks; with `summed`, the gradients of all
    ranks are summed first.
    """
    if processes.world_size == 1:
        return own
    gathered: Tensor = _Gather.apply(own, processes, dim, summed)
    return gathered


def gather_frames(own: EncodedFrames, longest: int, processes: ProcessGroup) -> EncodedFrames:
    """The videos of all ranks after the temporal encoder [M, F, D], padded to `longest` frames."""
    if processes.world_size == 1:
        return own
    more = longest - own.mask_BF.shape[1]
    return own.each(lambda tensor: gather(pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, more)), processes, summed=True))


def gather_texts(own: TextBatch, longest: int, processes: ProcessGroup) -> TextBatch:
    """The texts of all ranks [M]. No text may have more than `longest` rows. Gradients are summed over the ranks."""
    if processes.world_size == 1:
        return own
    padded = own.padded_to(longest)
    device = own.word_RD.device
    word_MLD = gather(padded.word_RD.unflatten(0, (-1, longest)), processes, summed=True)
    lengths = [own.length_A, own.length_A if own.real_A is None else own.real_A]
    length_M, real_M = (gather(length_A.to(device), processes).cpu() for length_A in lengths)
    kept_R = to_device((torch.arange(longest) < length_M[:, None]).flatten().nonzero()[:, 0], device)
    sentence_MD = gather(own.sentence_AD, processes, summed=True)
    return TextBatch(sentence_MD, word_MLD.flatten(0, 1)[kept_R], length_M, None if own.real_A is None else real_M)


def sum_gradients(parameters: Iterable[nn.Parameter], processes: ProcessGroup) -> None:
    """Sum the gradient of every parameter over all processes, in place."""
    if processes.world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # One message, because every message costs a round trip.
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
