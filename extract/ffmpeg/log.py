"""What ffmpeg says, read while it runs: words, and a line of the filter `showinfo` for every picture that comes out."""

import os
import re
from collections import deque
from fractions import Fraction
from typing import IO, NamedTuple

SAID_BYTES = 2**16
"""Of a longer log, so much of the beginning and as much of the end is kept: a damaged file can make ffmpeg say a million lines."""

# What the filter `showinfo` logs of a picture, in one piece. The end of its line comes in another: words of other threads may get between,
# and where they come before, what says whose line it is is left out.
PICTURE = re.compile(
    rb"(?:\[showinfo@\w+ @ \w+\] \[info\] )?n: *\d+ pts: *(?P<pts>-?\d+) [^\n]*?fmt:(?P<format>\S+) [^\n]*?"
    rb"sar:(?P<sar>\d+/\d+) s:(?P<size>\d+x\d+) i:(?P<fields>\S) [^\n]*?type:\S \n?"
)

# The level stands behind those who speak. Without a level, words go on in a line that was begun by others.
ERROR = re.compile(r"^(?!\[info\]).*\[(?:error|fatal)\]", re.MULTILINE)


def is_error(line: str) -> bool:
    """Whether a line of the log tells of an error: not one of the words of a file, which are logged as information."""
    return ERROR.search(line) is not None


class Pictured(NamedTuple):
    """What the filter `showinfo` says of a picture; `aspect` is the width of a pixel over its height."""

    pts: int
    pixel_format: str
    aspect: Fraction
    width: int
    height: int
    interlaced: bool


class Log:
    """What ffmpeg says, read as it comes: words, of which the beginning and the end are kept, and what `showinfo` says of pictures.

    `teller`: the name of that filter in the graph, `showinfo@` and what no file can know. The words of a file, such as its title, are
    logged before the filter first says its name, and none of them counts as what a filter says.
    """

    def __init__(self, file: IO[bytes], teller: str = "") -> None:
        self._file = file
        self._prefix = f"[{teller} @ ".encode()
        self._filtering = False
        self._offset = 0
        self._rest = b""
        self._first = self._last = b""
        self._pictures: deque[Pictured] = deque()
        self.turned = False
        """Whether a picture came with a display matrix."""
        self.clock_jumps = 0
        """How often an expression of a filter printed something: that a clock was set."""
        self._seen = self._seen_at_error = 0

    def next_picture(self) -> Pictured | None:
        """The next picture that the log tells of, as far as it is written."""
        if not self._pictures:
            self._read()
        return self._pictures.popleft() if self._pictures else None

    def said(self) -> str:
        """The words so far. The header of the input stands among them before the first picture comes out."""
        self._read()
        return (self._first + self._last + self._rest).decode("utf-8", "replace")

    def last_error(self) -> int:
        """How many pictures had come out before the last error so far."""
        self._read()
        return self._seen_at_error

    def _read(self) -> None:
        while new := os.pread(self._file.fileno(), SAID_BYTES, self._offset):
            self._offset += len(new)
            text, end, self._rest = (self._rest + new).rpartition(b"\n")
            for line in (text + end).splitlines(keepends=True):
                self._take(line)
            self._rest = self._rest[-SAID_BYTES:]

    def _take(self, line: bytes) -> None:
        self._filtering = self._filtering or line.startswith(self._prefix)
        while self._filtering and (found := PICTURE.search(line)):
            width, height = map(int, found["size"].split(b"x"))
            above, below = map(int, found["sar"].split(b"/"))
            aspect = Fraction(above, below) if above and below else Fraction(1)
            interlaced = found["fields"] in (b"T", b"B")
            self._pictures.append(Pictured(int(found["pts"]), found["format"].decode(), aspect, width, height, interlaced))
            self._seen += 1
            # Words that follow on the same line came from another thread, without what would say how grave they are.
            before, behind = line[: found.start()], line[found.end() :]
            line = before + ((b"\n[error] " if before else b"[error] ") if behind.strip() else b"") + behind
        if line.startswith(self._prefix):
            self.turned = self.turned or b"displaymatrix" in line
            return
        self.clock_jumps += self._filtering and b"[Eval @ " in line
        if is_error(line.decode("utf-8", "replace")):
            self._seen_at_error = self._seen
        if len(self._first) < SAID_BYTES:
            self._first += line
        else:
            self._last = (self._last + line)[-SAID_BYTES:]
