"""Progress of long work: a tqdm bar on a terminal, a plain line now and then in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Counts work done, with rate and time left, on stderr. Use as a context manager."""

    def __init__(self, what: str, total: int, unit: str, quiet: bool = False) -> None:
        self._what, self._unit, self._total = what, unit, total
        self._terminal = sys.stderr.isatty()
        self._lines = not self._terminal and not quiet
        self._bar = tqdm(total=total, desc=what, unit=unit, disable=quiet or not self._terminal, dynamic_ncols=True)
        self._done, self._note = 0, ""
        self._start = self._last = time.monotonic()

    def update(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done; `note` stands behind the figures."""
        self._done += count
        self._note = note or self._note
        if note and self._terminal:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if self._lines and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES and self._done < self._total:
            self._print_line()

    def _print_line(self) -> None:
        self._last = time.monotonic()
        meter = tqdm.format_meter(
            self._done, self._total, self._last - self._start, ncols=0, unit=f" {self._unit}", postfix=self._note or None
        )
        print(f"{self._what}: {meter}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
        if self._lines and self._total:
            self._print_line()
