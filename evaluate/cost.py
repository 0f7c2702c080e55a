"""Measures the cost of scoring while it runs: time and memory."""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from data.compute.device import synchronize

_RESET_PEAK = Path("/proc/self/clear_refs")
_MIB = 2**20


@dataclass
class Cost:
    """Time and memory of a block of code, filled in when the block ends."""

    seconds: float = 0.0
    peak_extra_mib: float | None = None
    """Peak memory minus the memory at the start, in MiB: of CUDA's allocator, or on a CPU of the process. None outside Linux."""


@contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measure the time and memory of the `with` block."""
    cost = Cost()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        process = _resident_bytes_from_here()
    start = time.perf_counter()
    yield cost
    synchronize(device)
    cost.seconds = time.perf_counter() - start
    if device.type == "cuda":
        cost.peak_extra_mib = (torch.cuda.max_memory_allocated(device) - before) / _MIB
    elif process is not None:
        cost.peak_extra_mib = (_status_bytes("VmHWM") - process) / _MIB


def _resident_bytes_from_here() -> int | None:
    """Reset the process's memory peak and return its resident memory; None if the system does not support this."""
    try:
        # Freed memory that the allocator keeps would hide later allocations.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        _RESET_PEAK.write_text("5")
        return _status_bytes("VmRSS")
    except OSError:
        return None


def _status_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
