"""The span of a video file that a cache entry covers.

Three kinds of files record spans, each in its own way. All conversions are here:

    requested                Span              table of videos     part of a cache    failures.csv
    the whole file           Span()            NaN, NaN            0.0, inf           (empty), (empty)
    all after 2.5 seconds    Span(2.5)         2.5, NaN            2.5, inf           2.5, (empty)
    the first 32 seconds     Span(None, 32.0)  NaN, 32.0           0.0, 32.0          (empty), 32.0
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """From `start` to `end`, in seconds from the start of the file. None is the start or the end of the file itself."""

    start: float | None = None
    end: float | None = None

    @classmethod
    def of_cells(cls, start: float, end: float) -> "Span":
        """From a table of videos (see `Dataset.videos`), where NaN is the start or the end of the file itself."""
        return cls(*(None if math.isnan(seconds) else float(seconds) for seconds in (start, end)))

    @classmethod
    def of_texts(cls, start: str, end: str) -> "Span":
        """From a CSV file, where an empty text is the start or the end of the file itself. Raises ValueError if a text is not a number."""
        return cls(*(float(text) if text else None for text in (start, end)))

    @property
    def begin(self) -> float:
        """Start of the span, in seconds from the start of the file."""
        return self.start or 0.0

    @property
    def is_whole(self) -> bool:
        """Whether the span covers the whole file; True for Span(0.0) too."""
        return not self.begin and self.end is None

    @property
    def bounds(self) -> tuple[float, float]:
        """Start and end as a cache records them, where 0 and infinity are the start and the end of the file itself."""
        return self.begin, math.inf if self.end is None else self.end

    def length(self, whole: float | None) -> float | None:
        """Seconds covered of a file that is `whole` seconds long; None if `whole` is unknown."""
        return None if whole is None else min(whole, self.end if self.end is not None else whole) - self.begin

    def ticks(self, fps: float) -> int | None:
        """Number of sampling times start + k / fps before the end, at least 1; None if the span runs to the end of the file."""
        # Rounded first: floating-point noise would add a sample.
        return None if self.end is None else max(1, math.ceil(round((self.end - self.begin) * fps, 6)))

    def __str__(self) -> str:
        """For messages: "all", "2.5 to the end s" or "0 to 32 s"."""
        if self.start is None and self.end is None:
            return "all"
        return f"{self.begin:g} to {'the end' if self.end is None else f'{self.end:g}'} s"


WHOLE_FILE = Span()


def cells_of(spans: Iterable[Span]) -> dict[str, list[float]]:
    """The columns start and end of a table of videos, one row per span; NaN is the start or the end of the file itself."""
    pairs = [[math.nan if seconds is None else seconds for seconds in (span.start, span.end)] for span in spans]
    return {"start": [start for start, _ in pairs], "end": [end for _, end in pairs]}
