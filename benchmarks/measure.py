"""Measures runs: wall time, CPU time (which depends less on other work on the machine), and peak memory; and concludes a benchmark."""

import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder

Row = dict[str, float]
"""Figures by their name."""


@dataclass(frozen=True)
class Timing:
    """Wall time and CPU time in seconds, of one run or as medians of several. CPU time includes child processes that have ended."""

    wall_s: float
    cpu_s: float


def cpu_seconds() -> float:
    """CPU seconds so far, of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def time_interleaved(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Median timing of each side. The sides run alternately, so that changes in the machine's load affect all of them."""
    runs: dict[str, list[Timing]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            run()
            timing = Timing(time.perf_counter() - wall, cpu_seconds() - cpu)
            runs[name].append(timing)
            print(f"  {name}: {timing.wall_s:.2f} s, {timing.cpu_s:.2f} s CPU", file=sys.stderr, flush=True)
    return {
        name: Timing(statistics.median(timing.wall_s for timing in timings), statistics.median(timing.cpu_s for timing in timings))
        for name, timings in runs.items()
    }


def seconds_interleaved(
    sides: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: Collection[str],
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every run of each side, by `clock`. The sides run alternately; those in `warm_up` first run once untimed.

    before: called before every run, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            if turn or name in warm_up:
                before()
                start = clock()
                run()
                taken = clock() - start
                seconds[name] += [taken] if turn else []
                print(f"  {name}: {taken:.3f} s{'' if turn else ' (warm-up)'}", file=sys.stderr, flush=True)
    return seconds


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process to end and return its peak resident memory in MiB.

    `wait4` would be wrong: on Linux, its peak includes the memory of the parent, from between fork and exec.
    """
    peak = 0.0
    while process.poll() is None:
        with suppress(FileNotFoundError, ProcessLookupError):
            peak = max(peak, peak_of(process.pid))
        time.sleep(0.02)
    return peak


def peak_of(pid: int | Literal["self"]) -> float:
    """Peak resident memory of a process so far, in MiB; 0 of one that has ended and is not yet waited for."""
    return _status_mib(pid, "VmHWM")


def resident_of(pid: int | Literal["self"]) -> float:
    """Resident memory of a process now, in MiB."""
    return _status_mib(pid, "VmRSS")


def _status_mib(pid: int | Literal["self"], name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def conclude(rows: Sequence[Mapping[str, Any]], out: Path, options: Any) -> None:
    """Print a Markdown table, write the rows, to four digits, and where they are from to `out`, and print them as a last line of JSON."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    make_folder(out.parent)
    rounded = [{key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in row.items()} for row in rows]
    write_json(out, {"rows": rounded, "provenance": provenance(options)})
    print(json.dumps(rounded))


def _cell(value: object) -> str:
    """Empty for a figure that a row lacks."""
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
