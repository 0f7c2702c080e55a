"""Choose the device for tensors, and the memory budget for features."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from data.base.errors import UserError
from data.cli.meaning import DeviceName

SPARE = 0.5
"""Share of a device's free memory that features may use; the rest is for computing."""


def find_device(name: DeviceName) -> torch.device:
    """The device of this name. `auto` is CUDA if there is a device, else the CPU; never MPS, which is untested.

    Raises UserError for `cuda` or `mps` if torch sees no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device cuda: this torch sees no CUDA device{_why_not()}; use --device cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this torch sees no GPU of Apple (it needs macOS on Apple silicon); use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def unused_card(device: torch.device, card: Path = Path("/dev/nvidia0")) -> str | None:
    """A line that says that a card of NVIDIA is here but torch cannot use it, for whoever computes on the CPU by `auto`; else None."""
    if device.type == "cuda" or torch.version.cuda is not None or not card.exists():
        return None
    return f"computing on the CPU: this machine has a card of NVIDIA, but torch {torch.__version__} is built for the CPU alone"


def _why_not() -> str:
    return " (it is built for the CPU alone)" if torch.version.cuda is None else ""


def by_device(size: Mapping[str, int], device: torch.device) -> int:
    """A size for the device, from sizes by type: that of the CPU where the type has none."""
    return size.get(device.type, size["cpu"])


def room_for(budget: int, device: torch.device) -> int:
    """The bytes of a memory budget that tensors on the device may take: on CUDA at most SPARE of its free memory."""
    return min(budget, int(SPARE * torch.cuda.mem_get_info(device)[0])) if device.type == "cuda" else budget


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work, so that a clock may be read. A CPU has by then."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def budget_bytes(gib: float | None) -> int:
    """The memory for cached features, in bytes: `gib` GiB, or by default half of the machine's memory.

    Raises UserError if `gib` is negative or not finite.
    """
    if gib is not None:
        if not 0 <= gib < 1e9:
            raise UserError(f"--memory-budget {gib}: a number of GiB, 0 or more")
        return int(gib * 2**30)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
