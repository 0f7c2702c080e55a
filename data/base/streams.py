"""Standard output and standard error that may be closed, full, or of an encoding that lacks a character."""

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

OUTPUT = "standard output"
"""The file name in the OSError of a failed write to standard output."""


def open_streams() -> None:
    """Replace sys.stdout and sys.stderr by streams that never raise UnicodeEncodeError, and send those that are closed to os.devnull.

    A character that the encoding lacks is written as its escape, and so is a byte of a file name that is not UTF-8. The first write to
    standard output that fails raises OSError with the file name OUTPUT; later ones are dropped, so that nothing fails again when Python
    ends. A write to standard error never raises: a lost message is no reason to lose the work that it is about.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            # A file that is opened later must not get this number: libraries print messages to it.
            os.dup2(nowhere, handle)
    sys.stdin = sys.stdin or io.TextIOWrapper(io.FileIO(os.devnull))
    sys.stdout = _stream(sys.stdout, 1, OUTPUT)
    sys.stderr = _stream(sys.stderr, 2, None)


class _Raw(io.FileIO):
    """A standard stream. After the first failed write it takes everything and writes nothing."""

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
    # A stream that was closed when Python began is None, and its number may be that of another file by now.
    raw = _Raw(os.devnull if before is None else handle, label)
    encoding = "utf-8" if before is None else before.encoding
    by_lines = label is None or (isinstance(before, io.TextIOWrapper) and (before.line_buffering or before.write_through))
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=by_lines)
