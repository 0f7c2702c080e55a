"""`python -m data.report`: the versions and the machine, to paste into a bug report."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from data.base.provenance import installed, packages
from data.base.quoting import visible
from data.base.version import CHECKOUT, version
from data.cli.command import run_command
from data.cli.command_line import About

# Asked in processes of their own: a broken library must not break the report of it.
_TORCH = """
import torch
print(f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU alone")
for number in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_name(number), f"({torch.cuda.get_device_properties(number).total_memory / 2**30:.0f} GiB)")
"""
_FFMPEG = """
import subprocess
from extract.ffmpeg.run import find_ffmpeg
program = find_ffmpeg()
print(subprocess.run([program, "-version"], capture_output=True, text=True).stdout.splitlines()[0])
print(program)
"""


@dataclass(frozen=True)
class ReportOptions:
    """Print what a bug report needs: versions, processor, CUDA and ffmpeg. Nothing leaves this machine."""

    json: Annotated[bool, About.OUTPUT] = False
    """The report as one JSON line on standard output."""


def collect() -> dict[str, Any]:
    """The report, in plain values for JSON. A package that is missing is None; a library that fails has the last line it said."""
    return {
        "glccl": version(),
        "commit": _answer(["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch": _answer([sys.executable, "-c", _TORCH]),
        "ffmpeg": _answer([sys.executable, "-c", _FFMPEG]),
        "packages": {name: installed(name) for name in packages()},
    }


def main(options: ReportOptions) -> None:
    """Print the report."""
    found = collect()
    if options.json:
        print(json.dumps(found))
        return
    packages = found.pop("packages")
    for name, value in found.items():
        print(f"{name + ':':11} {visible(value)}")
    installed = ", ".join(f"{name} {found or 'missing'}" for name, found in packages.items())
    print(f"{'packages:':11} {installed}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _answer(command: list[str]) -> str:
    """What a program prints, in one line; where it fails, the last line it says."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be asked: {error}"
    if done.returncode != 0:
        return f"fails: {(done.stderr.strip().splitlines() or [f'status {done.returncode}'])[-1]}"
    return "; ".join(done.stdout.split("\n")).strip("; ")


if __name__ == "__main__":
    run_command(ReportOptions, main, prog="python -m data.report", examples=("", "--json > report.json"))
