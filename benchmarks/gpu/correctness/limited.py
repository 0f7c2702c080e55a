"""A command with little memory: `python -m benchmarks.gpu.correctness.limited cuda|cpu MIB MODULE ARGUMENTS...`.

On CUDA torch may allocate this many MiB. On a CPU the process may: the limit is on top of what it has after loading torch.
"""

import importlib
import resource
import runpy
import sys
from pathlib import Path

import torch


def limit(device: str, mib: int) -> None:
    """Limit this process."""
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(mib * 2**20 / torch.cuda.get_device_properties().total_memory)
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(device: str, mib: str, module: str, *arguments: str) -> None:
    """Become the command."""
    # What the command loads takes address space too. Threads started under the limit would abort the process.
    importlib.import_module(f"{module}.stage")
    torch.ones(2**20).sum()
    limit(device, int(mib))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
