"""Runs every step in a process of its own with a time limit, and reports what they found."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.gpu.options import ROOT, GpuOptions
from benchmarks.gpu.steps import STEPS, Step, chosen, lacking
from data.base.errors import UserError
from data.base.whole_files import write_atomically
from data.base.writable import make_folder, require_writable_folder

PAGE_FILE, STEPS_FILE, LOGS = "gpu.md", "steps.jsonl", "logs"
LEAST_S = 1.0
"""A step with less time than this is not started."""


@dataclass(frozen=True)
class Ran:
    """What is known of a step after its turn: the line of steps.jsonl."""

    step: str
    about: str
    status: Literal["done", "failed", "not finished", "not run"]
    why: str = ""
    """Why it failed, was not finished or was not run."""
    seconds: float = 0.0
    limit_s: float = 0.0
    needs_met: bool = True
    """Whether this machine has what the step needs."""
    holds: dict[str, bool] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    """What the step could not check."""

    @property
    def refuted(self) -> list[str]:
        """The claims that do not hold."""
        return [claim for claim, holds in self.holds.items() if not holds]

    @property
    def all_holds(self) -> bool:
        """Whether it was done, or this machine lacks what it needs, and no claim is refuted."""
        return (self.status == "done" or not self.needs_met) and not self.refuted


class Interrupted(Exception):
    """Control-C; with what is known of every chosen step."""

    def __init__(self, ran: list[Ran]) -> None:
        super().__init__("interrupted")
        self.ran = ran


def run_steps(options: GpuOptions, steps: Sequence[Step] = STEPS) -> list[Ran]:
    """Run the chosen steps, and write a line of STEPS_FILE after each.

    Raises UserError for options that do not fit, before any work; and Interrupted.
    """
    if not 0 < options.minutes < float("inf"):
        raise UserError(f"--minutes {options.minutes:g} must be a number above 0")
    todo = chosen(options.steps, steps)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("this torch sees no CUDA device: run on a machine that has one, or try the steps with --device cpu --small")
    require_writable_folder(options.out)
    make_folder(options.out / LOGS)
    # A page of an earlier run would pass for that of this one.
    for name in (PAGE_FILE, STEPS_FILE):
        (options.out / name).unlink(missing_ok=True)
    device = torch.device(options.device)
    until = time.monotonic() + 60 * options.minutes
    ran: list[Ran] = []
    for i, step in enumerate(todo):
        why = lacking(step, device)
        left = until - time.monotonic()
        shares = [other.share for other in todo[i:] if not lacking(other, device)]
        if why:
            ran.append(Ran(step.name, step.about, "not run", why, needs_met=False))
        elif left < LEAST_S:
            ran.append(Ran(step.name, step.about, "not run", f"the {options.minutes:g} minutes of --minutes are over"))
        else:
            try:
                ran.append(run_step(step, options, left * step.share / sum(shares)))
            except KeyboardInterrupt:
                ran += [Ran(other.name, other.about, "not run", "interrupted", needs_met=not lacking(other, device)) for other in todo[i:]]
                raise Interrupted(ran) from None
        print(_said(ran[-1]), file=sys.stderr, flush=True)
        write_atomically(options.out / STEPS_FILE, "".join(json.dumps(asdict(one)) + "\n" for one in ran))
    return ran


def run_step(step: Step, options: GpuOptions, limit_s: float) -> Ran:
    """Run one step in a process of its own, which is killed with its children after `limit_s` seconds."""
    log = options.out / LOGS / f"{step.name}.txt"
    start = time.monotonic()
    # Children that are being killed may still write into the folder.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, log.open("wb") as output:
        result, folder = Path(name) / "result.json", Path(name) / "scratch"
        folder.mkdir()
        size = "small" if options.small else "full"
        # Its log then says where a crash in compiled code happened.
        command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.gpu.one_step", step.function, options.device, size]
        with subprocess.Popen(
            [*command, str(folder), str(result)], cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                status = process.wait(limit_s)
                why = ""
            except subprocess.TimeoutExpired:
                status, why = None, f"over its limit of {limit_s:.0f} s"
            finally:
                # Children of a step that is over may still live.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        seconds = round(time.monotonic() - start, 2)
        found = json.loads(result.read_text(encoding="utf-8")) if status is not None and result.exists() else {}
    why = why or found.get("error", "") or _ending(status or 0, "holds" in found)
    if status is None:
        return Ran(step.name, step.about, "not finished", why, seconds, round(limit_s, 1))
    if why:
        return Ran(step.name, step.about, "failed", why, seconds, round(limit_s, 1))
    return Ran(step.name, step.about, "done", "", seconds, round(limit_s, 1), **found)


def _ending(status: int, has_result: bool) -> str:
    """What is wrong with how a process ended; empty if nothing is."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}{' after its result' if has_result else ''}"
    return "" if has_result and not status else f"exit status {status}{'' if has_result else ' without a result'}"


def _said(ran: Ran) -> str:
    state = f"{ran.status}: {ran.why}" if ran.why else f"{ran.seconds:.1f} s"
    return f"{ran.step}: {state}{'; does not hold: ' if ran.refuted else ''}{'; '.join(ran.refuted)}"
