"""Read ffmpeg's log while it runs: messages, and one line of the filter `showinfo` per picture."""

import os
import re
from collections import deque
from fractions import Fraction
from typing import IO, NamedTuple

LOG_BYTES = 2**16
"""A longer log keeps only this many bytes of its start and its end: a damaged file can cause a million lines."""

# The part of a line that the filter `showinfo` writes at once for a picture. The rest of the line is written separately, so messages of
# other threads may come in between. After an unfinished line of another thread, ffmpeg omits the prefix.
PICTURE = re.compile(
    rb"(?:\[showinfo@\w+ @ \w+\] \[info\] )?n: *\d+ pts: *(?P<pts>-?\d+) [^\n]*?fmt:(?P<format>\S+) [^\n]*?"
    rb"sar:(?P<sar>\d+/\d+) s:(?P<size>\d+x\d+) i:(?P<fields>\S) [^\n]*?type:\S \n?"
)

TRUNCATED = b"File ended prematurely"
"""The Matroska demuxer's only sign of a truncated live recording. showinfo prints user data as hexadecimal."""

# The level follows the name of the component. Text without a level continues a line that another component began.
ERROR = re.compile(r"^(?!\[info\]).*\[(?:error|fatal)\]", re.MULTILINE)


def is_error(line: str) -> bool:
    """True if the line reports an error. Metadata of a file is logged at level info, so it never counts as an error."""
    return ERROR.search(line) is not None


class PictureInfo(NamedTuple):
    """What the filter `showinfo` reports for a picture. `aspect` is the width of a pixel divided by its height."""

    pts: int
    pixel_format: str
    aspect: Fraction
    width: int
    height: int
    interlaced: bool


class Log:
    """ffmpeg's log, read as it grows: the start and end of its text, and the `showinfo` lines as PictureInfo.

    `showinfo` is the name of that filter in the graph: `showinfo@` and a random suffix that no file can contain. Metadata of the file, such
    as its title, is logged before the filter's name first appears, and is never parsed as filter output.
    """

    def __init__(self, file: IO[bytes], showinfo: str = "") -> None:
        self._file = file
        self._prefix = f"[{showinfo} @ ".encode()
        self._filtering = False
        self._offset = 0
        self._rest = b""
        self._first = self._last = b""
        self._pictures: deque[PictureInfo] = deque()
        self.turned = False
        """True once a picture came with a display matrix."""
        self.clock_jumps = 0
        """Number of clock jumps: how often the filter expression printed something."""
        self._seen = self._seen_at_error = 0

    def next_picture(self) -> PictureInfo | None:
        """The next picture in the log, or None if no further one has been logged yet."""
        if not self._pictures:
            self._read()
        return self._pictures.popleft() if self._pictures else None

    def text(self) -> str:
        """The log so far without pictures. It contains the header of the input before the first picture comes out."""
        self._read()
        return (self._first + self._last + self._rest).decode("utf-8", "replace")

    def last_error(self) -> int:
        """Number of pictures that came out before the last error."""
        self._read()
        return self._seen_at_error

    def _read(self) -> None:
        while new := os.pread(self._file.fileno(), LOG_BYTES, self._offset):
            self._offset += len(new)
            text, end, self._rest = (self._rest + new).rpartition(b"\n")
            for line in (text + end).splitlines(keepends=True):
                self._take(line)
            self._rest = self._rest[-LOG_BYTES:]

    def _take(self, line: bytes) -> None:
        self._filtering = self._filtering or line.startswith(self._prefix)
        while self._filtering and (found := PICTURE.search(line)):
            width, height = map(int, found["size"].split(b"x"))
            above, below = map(int, found["sar"].split(b"/"))
            aspect = Fraction(above, below) if above and below else Fraction(1)
            interlaced = found["fields"] in (b"T", b"B")
            self._pictures.append(PictureInfo(int(found["pts"]), found["format"].decode(), aspect, width, height, interlaced))
            self._seen += 1
            # Text that follows on the same line came from another thread and lacks its level: count it as an error.
            before, behind = line[: found.start()], line[found.end() :]
            line = before + ((b"\n[error] " if before else b"[error] ") if behind.strip() else b"") + behind
        if line.startswith(self._prefix):
            self.turned = self.turned or b"displaymatrix" in line
            if TRUNCATED not in line:
                return
            # The demuxer's thread wrote into an unfinished line of the filter, so ffmpeg omitted its name and level.
            line = b"[error] " + TRUNCATED + b"\n"
        self.clock_jumps += self._filtering and b"[Eval @ " in line
        if is_error(line.decode("utf-8", "replace")):
            self._seen_at_error = self._seen
        if len(self._first) < LOG_BYTES:
            self._first += line
        else:
            self._last = (self._last + line)[-LOG_BYTES:]
