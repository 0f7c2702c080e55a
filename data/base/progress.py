"""Progress of long work: a tqdm bar on a terminal, an occasional line in a log."""

import os
import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0
SHORTEST_S = 0.1
"""Shortest time over which a rate is meaningful; before that, none is shown."""
COLUMNS = 100
"""Width of a terminal that does not report one."""
_WITHOUT_RATE = "{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
_BAR_WITHOUT_RATE = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def say(line: str) -> None:
    """Print a line to stderr, above the progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """A time for people, such as 7 s, 45 min or 3.2 h."""
    minutes = int(seconds) // 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


class Progress:
    """Report on stderr how much work is done, with rate and time left. Use as a context manager.

    total: the amount of work. Nothing is shown for 0.
    initial: work done before, for instance by an interrupted run. Counts for the total but not for the rate.
    delay: seconds before anything is shown.

    >>> with Progress("videos", len(videos), "videos") as progress:
    ...     for video in videos:
    ...         progress.update(note=f"{failed} failed")
    """

    def __init__(self, what: str, total: int, unit: str, quiet: bool = False, *, initial: int = 0, delay: float = 0.0) -> None:
        self._what, self._unit, self._total = what, unit, total
        self._initial, self._delay = initial, delay
        terminal, shown = sys.stderr.isatty(), bool(total) and not quiet
        self._draws, self._lines = shown and terminal, shown and not terminal
        self._bar: tqdm | None = None
        self._done, self._note = initial, ""
        self._start = self._last = time.monotonic()
        self._draw()

    def update(self, count: int = 1, note: str = "") -> None:
        """Add `count` to the work done; `note` is shown after the figures."""
        self._done += count
        self._note = note or self._note
        if self._bar is None:
            self._draw()
        else:
            self._bar.set_postfix_str(self._note, refresh=False)
            if self._has_rate():
                self._bar.bar_format = None  # tqdm's own
            self._bar.update(count)
        if self._lines and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES and self._done < self._total:
            self._print_line()

    def _draw(self) -> None:
        """Start the bar, if there is to be one and the delay has passed."""
        if not self._draws or time.monotonic() - self._start < self._delay:
            return
        # The terminals of some batch systems report 0 columns, which would leave no room for a bar.
        sized = os.get_terminal_size(sys.stderr.fileno()).columns > 0
        self._bar = tqdm(
            total=self._total,
            initial=self._initial,
            desc=self._what,
            unit=self._unit,
            ncols=None if sized else COLUMNS,
            dynamic_ncols=sized,
            # Not drawn yet: the position is set below. tqdm's delay cannot replace ours, because `say` draws a delayed bar.
            delay=1e-9,
            bar_format=_BAR_WITHOUT_RATE,
        )
        self._bar.start_t -= time.monotonic() - self._start
        self._bar.n = self._bar.last_print_n = self._done
        self._bar.set_postfix_str(self._note)

    def _has_rate(self) -> bool:
        """Whether enough was done to show a rate."""
        return self._done > self._initial and time.monotonic() - self._start >= SHORTEST_S

    def _print_line(self) -> None:
        self._last = time.monotonic()
        # Both 0 columns and a format leave the bar out.
        form: dict[str, Any] = {"ncols": 0, "initial": self._initial} if self._has_rate() else {"bar_format": _WITHOUT_RATE}
        elapsed, note = self._last - self._start, self._note or None
        meter = tqdm.format_meter(self._done, self._total, elapsed, unit=f" {self._unit}", postfix=note, **form)
        print(f"{self._what}: {meter}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._lines and time.monotonic() - self._start >= self._delay:
            self._print_line()
