"""Standard streams that may be closed, on a full disk, or in an encoding that lacks a character."""

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

OUTPUT = "standard output"
"""The file name in the OSError of a failed write to standard output."""


def open_streams() -> None:
    """Replace sys.stdout and sys.stderr by streams that never raise UnicodeEncodeError, and connect closed streams to os.devnull.

    Characters that the encoding lacks, and bytes of file names that are not UTF-8, are written as escapes. The first failed write to
    standard output raises OSError with the file name OUTPUT. Later writes are dropped, so that Python does not fail again at exit. Writes
    to standard error never raise: losing a message is no reason to lose the work.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            # Keep this file descriptor from later files: libraries print messages to it.
            os.dup2(nowhere, handle)
    sys.stdin = sys.stdin or io.TextIOWrapper(io.FileIO(os.devnull))
    sys.stdout = _stream(sys.stdout, 1, OUTPUT)
    sys.stderr = _stream(sys.stderr, 2, None)


class _Raw(io.FileIO):
    """A standard stream that discards everything after the first failed write."""

    def __init__(self, file: int | str, label: str | None) -> None:
        super().__init__(file, "w", closefd=isinstance(file, str))
        self._label, self._failed = label, False

    def write(self, data: "Buffer") -> int:
        if not self._failed:
            try:
                return super().write(data)
            except OSError as error:
                self._failed = True
                if self._label is not None:
                    error.filename = self._label
                    raise
        return memoryview(data).nbytes


def _stream(before: TextIO | None, handle: int, label: str | None) -> TextIO:
    # A stream that was closed when Python started is None, and its descriptor may belong to another file by now.
    raw = _Raw(os.devnull if before is None else handle, label)
    encoding = "utf-8" if before is None else before.encoding
    by_lines = label is None or (isinstance(before, io.TextIOWrapper) and (before.line_buffering or before.write_through))
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=by_lines)
