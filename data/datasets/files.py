"""Read annotation files. Every problem is reported in one line that names the file and the place in it."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from data.base.errors import UserError
from data.base.quoting import path_text, quote

MAX_CAPTION = 100_000
"""Most characters of a caption. The longest genuine paragraph of the field's data sets has fewer than 5,000."""

NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""A zero byte or a lone surrogate, which no text file can hold."""
COLLECTION = re.compile(r"""\s*(?:\[\s*(['"]).*\1\s*,?\s*\]|\{\s*(['"]).*['"]\s*:.*\})\s*""", re.DOTALL)
"""A list of strings, or a dictionary, in one cell: pandas writes this to CSV for a column of lists."""


LINE_BREAK = re.compile(r"\r\n|\r|\n")


def line_of(text: str, at: int, start: int = 0) -> int:
    """The line number, from 1, of position `at`, counting line breaks from `start`. A lone carriage return ends a line too."""
    return 1 + len(LINE_BREAK.findall(text, start, at))


def files_named(folder: Path, text: str) -> Iterator[Path]:
    """The paths under a folder whose `path_text` may be this text: the text itself, and existing names whose escaped bytes match it."""
    yield folder / text
    if "\\x" in text:
        # A name may also contain a literal \x, so compare with the names that exist.
        there = [folder]
        for part in text.split("/"):
            there = [parent / name for parent in there for name in _names_in(parent) if path_text(name) == part]
        yield from (path for path in there if path != folder / text)


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # a file, or a folder that may not be read


def find_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files that exists in the folder; None if none does."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def is_there(path: Path) -> bool:
    """Whether anything but a folder exists at a video's path. True for a pipe too: extract reports what is wrong with it."""
    # Unlike pathlib, os.path reports a name that is too long as one that does not exist.
    return os.path.exists(path) and not os.path.isdir(path)


def require_file(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of these files that exists in the folder. Raises UserError if none does."""
    path = find_file(folder, names)
    if path is None:
        raise UserError(f"{folder} holds {'neither ' if len(names) > 1 else 'no '}{' nor '.join(names)}: place the annotation file there")
    return path


def read_bytes(path: Path) -> bytes:
    """Read a whole file. Raises UserError if it is missing, unreadable or empty."""
    if not path.is_file():
        raise UserError(f"{path} is missing: place the annotation file there")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not content.strip():
        raise UserError(f"{path} is empty: place the annotation file there again")
    return content


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark. Raises UserError for other encodings, zero bytes and empty files."""
    content = read_bytes(path)
    zero = content.find(b"\0")
    if zero >= 0:
        raise UserError(f"{path}, line {content.count(10, 0, zero) + 1}: a zero byte; the file is damaged or not UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(10, 0, error.start) + 1
        raise UserError(f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8: save the file as UTF-8") from error
    if not text.strip():
        raise UserError(f"{path} is empty: place the annotation file there again")
    return text


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError if it is invalid, or if an object has a key twice: one of the values would be lost."""
    try:
        return json.loads(read_text(path), object_pairs_hook=unique_keys)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read as JSON: it is nested too deeply") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dictionary of these pairs. Raises ValueError if a key appears twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {quote(twice)} appears twice in one object")
    return made


def read_ids(path: Path) -> list[str]:
    """Read a list of video ids, one per line. Raises UserError for an invalid or repeated id."""
    ids: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        name = line.removesuffix("\r")
        if not name.strip():
            continue
        check_video_id(name, f"{path}, line {number}")
        if name in ids:
            raise UserError(f"{path}, line {number}: {quote(name)} is listed twice, first in line {ids[name]}: list each video once")
        ids[name] = number
    return list(ids)


def other_count(fields: int, columns: int) -> str:
    """What is wrong with a row that has another number of fields than the header has columns, and the remedy.

    >>> other_count(2, 3)
    '2 fields where the header has 3: end the row with a separator for each empty cell'
    """
    too_many = fields > columns
    remedy = "put a caption that holds the separator into quotes" if too_many else "end the row with a separator for each empty cell"
    return f"{fields} field{'s' * (fields != 1)} where the header has {columns}: {remedy}"


def read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV file with a header, all cells as text, none as missing. Raises UserError if it is invalid or lacks one of `columns`."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader)
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(f"{path}, line {reader.line_num}: {other_count(len(row), len(header))}")
            if row:
                rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: cannot be read as CSV: {error}") from error
    if len(set(header)) < len(header):
        raise UserError(f"{path}, line 1: a column appears twice: {quote(', '.join(header))}")
    frame = pd.DataFrame(rows, columns=pd.Index(header), dtype=str)
    require_columns(frame, columns, path)
    return frame


def require_columns(frame: pd.DataFrame, columns: tuple[str, ...], path: Path) -> None:
    """Raise UserError if a column is missing."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {quote(', '.join(map(str, frame.columns)))}")


def check_video_id(value: object, place: str) -> str:
    """Return the id. Raises UserError if it is not text, could lead out of the folder of videos, or cannot be part of a file name."""
    good = isinstance(value, str) and value.isprintable() and value == value.strip() and 0 < len(value) <= 250
    if not good or value in (".", "..") or "/" in str(value) or "\\" in str(value):
        raise UserError(f"{place}: {quote(value)} is not a video id")
    return str(value)


def check_caption(value: object, place: str) -> str:
    """Return the caption. Raises UserError if it is not text, is longer than MAX_CAPTION, or matches NO_TEXT."""
    if not isinstance(value, str):
        raise UserError(f"{place}: the caption {quote(value)} is not text")
    if len(value) > MAX_CAPTION:
        raise UserError(f"{place}: a caption of {len(value):,} characters; {MAX_CAPTION:,} are allowed")
    if NO_TEXT.search(value):
        raise UserError(f"{place}: the caption {quote(value)} holds a zero byte or half a character")
    return value


def check_captions(value: object, place: str) -> list[str]:
    """Return a list of captions after checking each. Raises UserError as `check_caption` does."""
    if not isinstance(value, list):
        raise UserError(f"{place}: {quote(value)} is not a list of captions")
    return [check_caption(caption, f"{place}, caption {number}") for number, caption in enumerate(value, start=1)]
