"""Annotation files. Whatever is wrong with a file is said in one line that names the file and the place in it."""

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
"""Characters. The longest genuine paragraph of the field's data sets has fewer than 5,000."""

NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""A zero or half a character, which no text file can hold."""


LINE_BREAK = re.compile(r"\r\n|\r|\n")


def line_of(text: str, at: int, start: int = 0) -> int:
    """The line, counted from 1, that a place of a text is in, counted from `start`; a lone carriage return ends a line too."""
    return 1 + len(LINE_BREAK.findall(text, start, at))


def files_named(folder: Path, text: str) -> Iterator[Path]:
    """Where under a folder there may be a file whose name is this text in `path_text`: as it stands, and with bytes for its escapes."""
    yield folder / text
    if "\\x" in text:
        # An escape may also be what a name really has: the names that are there tell.
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
    """The first of these files that is in the folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def is_there(path: Path) -> bool:
    """Whether there is something under a video's name that is no folder. A pipe is there: extract says what is wrong with it."""
    # Unlike pathlib's, these take a name that is too long for a file as one that is not there.
    return os.path.exists(path) and not os.path.isdir(path)


def require_file(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of these files that is in the folder; raises UserError where none is."""
    path = find_file(folder, names)
    if path is None:
        raise UserError(f"{folder} holds {'neither ' if len(names) > 1 else 'no '}{' nor '.join(names)}: place the annotation file there")
    return path


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises UserError if it is missing, cannot be read, or is empty."""
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
    """A text file in UTF-8, with or without a byte order mark. Raises UserError if it is something else, holds zero bytes or nothing."""
    content = read_bytes(path)
    zero = content.find(b"\0")
    if zero >= 0:
        raise UserError(f"{path}, line {content.count(10, 0, zero) + 1}: a zero byte; the file is damaged or no UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(10, 0, error.start) + 1
        raise UserError(f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8: save the file as UTF-8") from error
    if not text.strip():
        raise UserError(f"{path} is empty: place the annotation file there again")
    return text


def read_json(path: Path) -> Any:
    """A JSON file; a key that an object has twice is refused, since one of the two would be lost."""
    try:
        return json.loads(read_text(path), object_pairs_hook=unique_keys)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read as JSON: it is nested too deeply") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises ValueError if a key is there twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {quote(twice)} is there twice in one object")
    return made


def read_ids(path: Path) -> list[str]:
    """A list of video ids, one a line; raises UserError at what is no id, and at an id that is there twice."""
    ids: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        name = line.removesuffix("\r")
        if not name.strip():
            continue
        check_video_id(name, f"{path}, line {number}")
        if name in ids:
            raise UserError(f"{path}, line {number}: {quote(name)} is there twice, first in line {ids[name]}: a video belongs there once")
        ids[name] = number
    return list(ids)


def read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV file with a header as text, nothing taken for a missing value. Raises UserError if it lacks one of `columns`."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader)
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(f"{path}, line {reader.line_num}: {len(row)} fields where the header has {len(header)}")
            if row:
                rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: cannot be read as CSV: {error}") from error
    if len(set(header)) < len(header):
        raise UserError(f"{path}, line 1: a column is there twice: {quote(', '.join(header))}")
    frame = pd.DataFrame(rows, columns=pd.Index(header), dtype=str)
    require_columns(frame, columns, path)
    return frame


def require_columns(frame: pd.DataFrame, columns: tuple[str, ...], path: Path) -> None:
    """Raises UserError if a column is missing."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {quote(', '.join(map(str, frame.columns)))}")


def check_video_id(value: object, place: str) -> str:
    """The id. Raises UserError if it is no text, could lead out of the folder of videos, or could not be part of a file name."""
    good = isinstance(value, str) and value.isprintable() and value == value.strip() and 0 < len(value) <= 250
    if not good or value in (".", "..") or "/" in str(value) or "\\" in str(value):
        raise UserError(f"{place}: {quote(value)} is no video id")
    return str(value)


def check_caption(value: object, place: str) -> str:
    """The caption. Raises UserError if it is no text, longer than MAX_CAPTION, or holds what no text file can hold."""
    if not isinstance(value, str):
        raise UserError(f"{place}: the caption {quote(value)} is no text")
    if len(value) > MAX_CAPTION:
        raise UserError(f"{place}: a caption of {len(value):,} characters; {MAX_CAPTION:,} are allowed")
    if NO_TEXT.search(value):
        raise UserError(f"{place}: the caption {quote(value)} holds a zero or half a character")
    return value


def check_captions(value: object, place: str) -> list[str]:
    """A list of captions, each checked."""
    if not isinstance(value, list):
        raise UserError(f"{place}: {quote(value)} is no list of captions")
    return [check_caption(caption, f"{place}, caption {number}") for number, caption in enumerate(value, start=1)]
