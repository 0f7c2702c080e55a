"""Progress of long work: a tqdm bar on a terminal, a plain line now and then in a log."""

import os
import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0
SHORTEST_S = 0.1
"""A rate measured over less time than this says nothing of the work, and is not shown."""
COLUMNS = 100
"""Of a terminal that does not say."""
_WITHOUT_RATE = "{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
_BAR_WITHOUT_RATE = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def say(line: str) -> None:
    """Print a line to stderr, above the bar of progress if there is one."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


class Progress:
    """Counts work done, with rate and time left, on stderr. Use as a context manager.

    `there`: how much was done before, by a run that was stopped, say; it counts for the total and not for the rate. `patience`: seconds
    that the work takes before it is shown at all. Where `total` is 0 nothing is shown.
    """

    def __init__(self, what: str, total: int, unit: str, quiet: bool = False, *, there: int = 0, patience: float = 0.0) -> None:
        self._what, self._unit, self._total = what, unit, total
        self._there, self._patience = there, patience
        terminal, shown = sys.stderr.isatty(), bool(total) and not quiet
        self._draws, self._lines = shown and terminal, shown and not terminal
        self._bar: tqdm | None = None
        self._done, self._note = there, ""
        self._start = self._last = time.monotonic()
        self._draw()

    def update(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done; `note` stands behind the figures."""
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
        """Begin the bar, if the work is shown as one and takes long enough."""
        if not self._draws or time.monotonic() - self._start < self._patience:
            return
        # A terminal of 0 columns, as some batch systems have, does not say how wide it is: on so many no bar would be seen.
        sized = os.get_terminal_size(sys.stderr.fileno()).columns > 0
        self._bar = tqdm(
            total=self._total,
            initial=self._there,
            desc=self._what,
            unit=self._unit,
            ncols=None if sized else COLUMNS,
            dynamic_ncols=sized,
            # Drawn below, when it stands where the work does. As patience a delay would not do: a line of `say` draws what is delayed.
            delay=1e-9,
            bar_format=_BAR_WITHOUT_RATE,
        )
        self._bar.start_t -= time.monotonic() - self._start
        self._bar.n = self._bar.last_print_n = self._done
        self._bar.set_postfix_str(self._note)

    def _has_rate(self) -> bool:
        """Whether the work done says how fast it goes."""
        return self._done > self._there and time.monotonic() - self._start >= SHORTEST_S

    def _print_line(self) -> None:
        self._last = time.monotonic()
        # No columns leave the bar out, and a format as well.
        form: dict[str, Any] = {"ncols": 0, "initial": self._there} if self._has_rate() else {"bar_format": _WITHOUT_RATE}
        elapsed, note = self._last - self._start, self._note or None
        meter = tqdm.format_meter(self._done, self._total, elapsed, unit=f" {self._unit}", postfix=note, **form)
        print(f"{self._what}: {meter}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._lines and time.monotonic() - self._start >= self._patience:
            self._print_line()
