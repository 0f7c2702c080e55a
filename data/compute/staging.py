"""Copies from the host to the device that do not make the host wait."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. From the CPU to CUDA it goes by way of pinned memory, in the order of the device's other work.

    A copy from ordinary memory would make the host wait until the device has done all that was asked of it. The pinned copy is a tensor of
    its own, which torch frees only when it has been read, so that the caller may change or drop the one that was given.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
