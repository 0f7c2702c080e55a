"""The command itself: runs the steps, writes the page, prints a line of JSON."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.options import GpuOptions
from benchmarks.gpu.page import page
from benchmarks.gpu.run import PAGE_FILE, Interrupted, Ran, run_steps
from data.base.provenance import provenance
from data.base.whole_files import write_atomically
from data.cli.command import SOME_FAILED


@dataclass(frozen=True)
class Findings:
    """The page, and whether every chosen step that this machine can run was done and holds."""

    page: Path
    all_holds: bool


def main(options: GpuOptions) -> Findings:
    """Run the steps, and write OUT/gpu.md and OUT/steps.jsonl. Raises UserError without the device.

    Control-C raises KeyboardInterrupt when the page of the steps before it is written.
    """
    try:
        ran = run_steps(options)
    except Interrupted as stop:
        findings = write(options, stop.ran)
        raise KeyboardInterrupt(
            f"{findings.page} has the steps that were done; the same command starts with the first step again"
        ) from None
    return write(options, ran)


def write(options: GpuOptions, ran: Sequence[Ran]) -> Findings:
    """Write the page, and print the line of JSON."""
    made_by = provenance(options)
    command = shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]])
    write_atomically(options.out / PAGE_FILE, page(ran, command, made_by["commit"], made_by["date"], options.small))
    findings = Findings(options.out / PAGE_FILE, all(one.all_holds for one in ran))
    steps: dict[str, Any] = {
        one.step: {
            "status": one.status,
            "seconds": one.seconds,
            "does not hold": one.refuted,
        }
        for one in ran
    }
    print(json.dumps({"page": str(findings.page), "all holds": findings.all_holds, "steps": steps}))
    return findings


def status(findings: Findings) -> int:
    """The exit status: 0 if all holds, else that of a command with failures."""
    return 0 if findings.all_holds else SOME_FAILED
