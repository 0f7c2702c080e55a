"""Recognizes errors of exhausted memory, on a GPU or not, among those of torch, NumPy and Python."""

import re
import sys
from dataclasses import dataclass

_ON_A_GPU = re.compile(r"CUDA error: out of memory|MPS backend out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
_ON_THE_CPU = re.compile(r"DefaultCPUAllocator: can't allocate memory|DefaultCPUAllocator: not enough memory")
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) (\w+)", re.IGNORECASE)


@dataclass(frozen=True)
class Exhausted:
    """Where memory was exhausted, and how much was asked for, such as "20.00 GiB"; empty if the error does not say."""

    on_gpu: bool
    asked: str


def exhausted(error: BaseException) -> Exhausted | None:
    """What is known if this error says that memory is exhausted; None for any other error. Loads no torch."""
    torch, said = sys.modules.get("torch"), str(error)
    asked = _ASKED.search(said)
    # torch raises a plain RuntimeError for memory of the CPU, of MPS, and of what CUDA's libraries allocate themselves.
    on_gpu = (torch is not None and isinstance(error, torch.OutOfMemoryError)) or bool(_ON_A_GPU.search(said))
    if on_gpu or isinstance(error, MemoryError) or _ON_THE_CPU.search(said):
        return Exhausted(on_gpu, _amount(*asked.groups()) if asked else "")
    return None


def _amount(number: str, unit: str) -> str:
    return f"{int(number) / 2**20:,.1f} MiB" if unit == "bytes" else f"{number} {unit}"
