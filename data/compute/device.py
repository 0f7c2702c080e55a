"""Choose the device for tensors, and the memory budget for features."""

import os

import torch

from data.base.errors import UserError


def find_device(name: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`. Raises UserError for `cuda` if there is no CUDA device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this torch sees no CUDA device; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def budget_bytes(gib: float | None) -> int:
    """The memory for cached features, in bytes: `gib` GiB, or by default half of the machine's memory.

    Raises UserError if `gib` is negative or not finite.
    """
    if gib is not None:
        if not 0 <= gib < 1e9:
            raise UserError(f"--memory-budget {gib}: a number of GiB, 0 or more")
        return int(gib * 2**30)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
