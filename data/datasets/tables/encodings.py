"""Decode text files of users: UTF-8, UTF-16 or UTF-32, and Windows-1252 as the last resort.

Libraries such as charset-normalizer guess from letter statistics. On the few non-ASCII characters of a table of captions they are often
wrong, and never say so. Here, a file is UTF-8 or UTF-16 if it cannot be anything else. Other files are read as Windows-1252, in which Excel
saves CSV in Western Europe and America, and a note shows a decoded word.
"""

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from data.base.errors import UserError
from data.datasets.files import line_of

MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
"""Byte order marks; a mark comes before its own prefixes."""

CHARACTERS = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
"""Non-ASCII characters in UTF-8."""

LONG_RUN = 4
"""A run of this many non-ASCII bytes is text in another alphabet (Cyrillic, Greek or Chinese in legacy encodings): words of the languages
of Windows-1252 have at most two."""


class Decoded(NamedTuple):
    """A decoded text, and a note about its encoding if that is not UTF-8."""

    content: str
    note: str = ""


def decode(content: bytes, path: Path) -> Decoded:
    """Decode a file. Raises UserError, with the line, if the file is damaged or its encoding cannot be determined."""
    for mark, codec, name in MARKS:
        if content.startswith(mark):
            return _in(content[len(mark) :], codec, name, path)
    for codec in ("utf-16-le", "utf-16-be"):
        if _is_utf16(content, codec):
            return _in(content, codec, "UTF-16", path)
    zero = content.find(b"\0")
    if zero >= 0:
        raise UserError(f"{path}, line {_line(content, zero)}: a zero byte; the file is damaged or not text")
    try:
        return Decoded(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _as_windows_1252(content, error, path)


def _in(content: bytes, codec: str, name: str, path: Path) -> Decoded:
    try:
        text = content.decode(codec)
    except UnicodeDecodeError as error:
        line = line_of(content[: error.start].decode(codec, "ignore"), error.start)
        raise UserError(
            f"{path}, line {line}: the file starts as {name} and cannot be read as such here: it is damaged; save it as UTF-8"
        ) from error
    zero = text.find("\0")
    if zero >= 0:
        line = line_of(text, zero)
        raise UserError(f"{path}, line {line}: a zero byte; the file is damaged or not text")
    return Decoded(text, "" if name == "UTF-8" else f"in {name}")


def _is_utf16(content: bytes, codec: str) -> bool:
    """Whether a text without a mark must be UTF-16: it begins with two ASCII characters, and all of it can be decoded."""
    first, second = (content[:4:2], content[1:4:2]) if codec == "utf-16-le" else (content[1:4:2], content[:4:2])
    if second != b"\0\0" or not first.isascii() or b"\0" in first:
        return False
    try:
        return "\0" not in content.decode(codec)
    except UnicodeDecodeError:
        return False


def _as_windows_1252(content: bytes, error: UnicodeDecodeError, path: Path) -> Decoded:
    place = f"{path}, line {_line(content, error.start)}: byte {content[error.start]:#04x} is not UTF-8"
    # In Windows-1252, an accented letter and a following symbol can look like a UTF-8 character, but rarely do.
    good, other = len(CHARACTERS.findall(content)), len(re.findall(rb"[\x80-\xff]", CHARACTERS.sub(b"", content)))
    if good > other // 10:
        raise UserError(f"{place}, though other characters of the file are: the file is damaged or in two encodings; save it as UTF-8")
    runs = re.findall(rb"[\x80-\xff]+", content)
    long = sum(len(run) >= LONG_RUN for run in runs)
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        long = len(runs)
        text = ""
    if 2 * long >= len(runs):
        raise UserError(f"{place}, nor is the file in Windows-1252: save it as UTF-8")
    found = re.search(r"[^\s,;|\"]*[^\x00-\x7f][^\s,;|\"]*", text)
    assert found
    line = line_of(text, found.start())
    return Decoded(text, f"in Windows-1252, such as {found[0][:40]} in line {line} (save it as UTF-8 if that is not a word)")


def _line(content: bytes, at: int) -> int:
    return line_of(content[:at].decode("latin-1"), at)
