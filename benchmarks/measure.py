"""What runs cost: wall time beside processor time, which other work on the machine changes less, and memory."""

import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Of one run, or the medians of several: wall time, and processor time of this process and those it has waited for, in seconds."""

    wall_s: float
    cpu_s: float


def cpu_seconds() -> float:
    """Processor time so far, of this process and the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def in_turn(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Cost]:
    """The cost of each side: medians of runs taken in turn."""
    runs: dict[str, list[Cost]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            run()
            cost = Cost(time.perf_counter() - wall, cpu_seconds() - cpu)
            runs[name].append(cost)
            print(f"  {name}: {cost.wall_s:.2f} s, {cost.cpu_s:.2f} s of processors", file=sys.stderr, flush=True)
    return {
        name: Cost(statistics.median(cost.wall_s for cost in costs), statistics.median(cost.cpu_s for cost in costs))
        for name, costs in runs.items()
    }


def seconds_in_turn(
    sides: Mapping[str, Callable[[], object]], repeats: int, warm_up: Collection[str], clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every run of each side by this clock, the sides in turn; those of `warm_up` run once more before, which does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            if turn or name in warm_up:
                start = clock()
                run()
                taken = clock() - start
                seconds[name] += [taken] if turn else []
                print(f"  {name}: {taken:.3f} s{'' if turn else ' (warm-up)'}", file=sys.stderr, flush=True)
    return seconds


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """The largest resident memory of a process, in MiB, waiting for its end.

    Linux counts it in what `wait4` gives from before the process became another program: that would be our own.
    """
    peak = 0
    while process.poll() is None:
        with suppress(FileNotFoundError, ProcessLookupError):
            if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text()):
                peak = max(peak, int(found[1]))
        time.sleep(0.02)
    return peak / 1024
