"""The part of a video file that an entry of a cache covers.

Three files record it, each in its own way, and the conversions are all here:

    what is asked for        Span              table of videos     part of a cache    failures.csv
    the whole file           Span()            NaN, NaN            0.0, inf           (empty), (empty)
    all after 2.5 seconds    Span(2.5)         2.5, NaN            2.5, inf           2.5, (empty)
    the first 32 seconds     Span(None, 32.0)  NaN, 32.0           0.0, 32.0          (empty), 32.0
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """From `start` to `end`, in seconds from the start of the file. None: the file's own start or end."""

    start: float | None = None
    end: float | None = None

    @classmethod
    def of_cells(cls, start: float, end: float) -> "Span":
        """The span that a table of videos records (see `Dataset.videos`): NaN where the file itself starts or ends."""
        return cls(*(None if math.isnan(seconds) else float(seconds) for seconds in (start, end)))

    @classmethod
    def of_texts(cls, start: str, end: str) -> "Span":
        """The span that a CSV file records: empty where the file itself starts or ends. Raises ValueError if a text is no number."""
        return cls(*(float(text) if text else None for text in (start, end)))

    @property
    def begin(self) -> float:
        """The second of the file at which the span starts."""
        return self.start or 0.0

    @property
    def is_whole(self) -> bool:
        """Whether the span covers the whole file, however that was asked for."""
        return not self.begin and self.end is None

    @property
    def bounds(self) -> tuple[float, float]:
        """Start and end as a cache records them: 0 and infinity where the file itself starts or ends."""
        return self.begin, math.inf if self.end is None else self.end

    def length(self, whole: float | None) -> float | None:
        """Seconds covered of a file of `whole` seconds; None where that is unknown."""
        return None if whole is None else min(whole, self.end if self.end is not None else whole) - self.begin

    def ticks(self, fps: float) -> int | None:
        """How many moments start + k / fps lie before the end; None where the span goes on to the end of the file."""
        # Without the noise of binary fractions, which would make one more.
        return None if self.end is None else max(1, math.ceil(round((self.end - self.begin) * fps, 6)))

    def __str__(self) -> str:
        """For messages: "all", or "2.5 to the end s"."""
        if self.start is None and self.end is None:
            return "all"
        return f"{self.begin:g} to {'the end' if self.end is None else f'{self.end:g}'} s"


WHOLE_FILE = Span()


def cells_of(spans: Iterable[Span]) -> dict[str, list[float]]:
    """The columns start and end of a table of videos, one row per span: NaN where the file itself starts or ends."""
    pairs = [[math.nan if seconds is None else seconds for seconds in (span.start, span.end)] for span in spans]
    return {"start": [start for start, _ in pairs], "end": [end for _, end in pairs]}
