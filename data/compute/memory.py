"""Recognizes errors of exhausted memory, on a GPU or not, among those of torch, NumPy, Python and other libraries."""

import errno
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

_ON_A_GPU = re.compile(r"CUDA error: out of memory|MPS backend out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
_ON_THE_CPU = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc"
    # HDF5, and the dynamic linker for the library of a module that is imported late.
    r"|memory allocation failed|unable to allocate (memory|space)|failed to map segment from shared object(: Cannot allocate memory)?$"
    # A system call that failed, such as the mmap of a file of weights. An object without room in static TLS is another matter.
    rf"|{os.strerror(errno.ENOMEM)}(?! in static TLS)"
)
_NO_THREAD = re.compile(r"can't start new thread")
_BY_ONEDNN = re.compile(r"^could not (create a primitive|create a memory object|execute a primitive)$")
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) (\w+)", re.IGNORECASE)
_IN_USE = "options_in_use"

SAY_SO = (MemoryError, RuntimeError, OSError, ImportError)
"""The types of the errors that may say that memory is exhausted."""


class Lack(Enum):
    """What was exhausted. THREADS: no thread or process could be started. PERHAPS: oneDNN failed, and does not say why."""

    GPU = "the GPU's memory"
    MACHINE = "the machine's memory"
    THREADS = "threads or processes"
    PERHAPS = "perhaps the machine's memory"


@dataclass(frozen=True)
class Exhausted:
    """What was exhausted, and how much was asked for, such as "20.00 GiB"; empty if the error does not say.

    said: the message of the error.
    in_use: options that stood for other values than those given, by field: see `in_use`.
    """

    lack: Lack
    asked: str = ""
    said: str = ""
    in_use: Mapping[str, Any] = field(default_factory=dict)


class OutOfMemory(MemoryError):
    """Memory was exhausted in another process, which sent what is known."""

    def __init__(self, found: Exhausted) -> None:
        super().__init__(found)
        self.found = found


@contextmanager
def in_use(**options: Any) -> Iterator[None]:
    """Let an error of exhausted memory that leaves this block tell the values of options in use, where they differ from those given."""
    try:
        yield
    except SAY_SO as error:
        setattr(error, _IN_USE, options)
        raise


def exhausted(error: BaseException) -> Exhausted | None:
    """What is known if this error says that memory is exhausted; None for any other error. Loads no torch."""
    if isinstance(error, OutOfMemory):
        return error.found
    said = str(error)
    lack = _lack(error, said) if isinstance(error, SAY_SO) else None
    if lack is None:
        return None
    asked = _ASKED.search(said)
    return Exhausted(lack, _amount(*asked.groups()) if asked else "", said, getattr(error, _IN_USE, {}))


def raise_if_exhausted(error: Exception) -> None:
    """Re-raise an error that says that memory is exhausted, so that nobody is told that the file it came from is damaged."""
    if exhausted(error) is not None:
        raise error


def _lack(error: BaseException, said: str) -> Lack | None:
    torch = sys.modules.get("torch")
    # torch raises a plain RuntimeError for memory of the CPU, of MPS, and of what CUDA's libraries allocate themselves.
    if (torch is not None and isinstance(error, torch.OutOfMemoryError)) or _ON_A_GPU.search(said):
        return Lack.GPU
    if isinstance(error, MemoryError) or _ON_THE_CPU.search(said):
        return Lack.MACHINE
    # fork fails so at the limit of processes. An error that names a file is of that file, such as a lock.
    if _NO_THREAD.search(said) or (isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN and error.filename is None):
        return Lack.THREADS
    # Its descriptor was created, so the operation is supported: what remains is nearly always memory for buffers or compiled code.
    return Lack.PERHAPS if _BY_ONEDNN.search(said) else None


def _amount(number: str, unit: str) -> str:
    return f"{int(number) / 2**20:,.1f} MiB" if unit == "bytes" else f"{number} {unit}"
