"""Read tables of typed values: JSON Lines, JSON lists of objects, and Parquet."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.base.errors import UserError, one_line
from data.base.quoting import quote
from data.datasets.containers import is_video_name
from data.datasets.files import line_of, unique_keys
from data.datasets.tables.cells import Doubt, IsHeader, Rows, is_blank, number_text, require_columns_of_a_table, scalar_text

JSON_BEGINS = re.compile(r"\s*(?:\{|\[\s*(?:[\[{\]]|$))")
"""The start of a JSON list or object; no text table has such a header."""
BLANK = re.compile(r"[ \t\r\n]*")
BETWEEN = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")
INDEX = re.compile(r"__index_level_\d+__")
"""Columns that pandas adds for an index."""
MAX_ROWS = 50_000_000
"""Limit on the number of rows: even a small Parquet file can claim any number."""


def read_json_rows(text: str, path: Path, is_header: IsHeader) -> Rows:
    """The objects of a JSON list or of JSON Lines as rows, placed by line.

    Raises UserError, with the line, if the text is not JSON, holds anything but objects, or an object has a key twice.
    """
    listed = text.lstrip().startswith("[")
    values, places = [], []
    line = at = 0
    for start, value in _json_values(text, listed, path):
        line += line_of(text, start, at) - 1
        at = start
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {line + 1}: {_describe(value)} is not an object: a row is an object with video and caption")
        values.append(value)
        places.append(line + 1)
    names = list(dict.fromkeys(name for value in values for name in value))
    if not names:
        raise UserError(f"{path} has no rows: a row is an object with video and caption")
    require_columns_of_a_table(names, path)
    nested = [isinstance(value, dict | list) for value in values[0].values()] if values else []
    of_files = any(is_video_name(Path(name)) for name in names if "\0" not in name)
    if len(values) == 1 and (all(nested) if is_header(names) else any(nested) or of_files):
        raise UserError(
            f"{path} is one JSON object with {quote(', '.join(names))}: a table is a list of objects, or one object a line, each with "
            "video and caption"
        )
    form = "a JSON list" if listed else "JSON Lines"
    return _of_columns(names, [[value.get(name) for value in values] for name in names], places, "line", (form,))


def _json_values(text: str, listed: bool, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the start and the value of every JSON value."""
    decoder = json.JSONDecoder(object_pairs_hook=unique_keys, parse_float=_as_written, parse_int=_as_written, parse_constant=_constant)

    def refuse(at: int, error: str) -> UserError:
        return UserError(f"{path}, line {line_of(text, at)}: cannot be read as JSON: {error}")

    def skip(pattern: re.Pattern[str], at: int) -> int:
        found = pattern.match(text, at)
        assert found
        return found.end()

    at = skip(BLANK, 0)
    at = skip(BLANK, at + 1) if listed else at
    while at < len(text) and not (listed and text[at] == "]"):
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            # Some messages of the decoder end with a place.
            raise refuse(error.pos, re.sub(r"( starting)? at$", "", error.msg)) from error
        except ValueError as error:
            raise refuse(at, str(error)) from error
        except RecursionError as error:
            raise refuse(at, "it is nested too deeply") from error
        yield at, value
        at = skip(BETWEEN, end)
        if listed and at < len(text) and text[at] != "]" and "," not in text[end:at]:
            raise refuse(at, "a comma is missing")
    if listed and (at >= len(text) or text[at + 1 :].strip()):
        raise refuse(min(at + 1, len(text)), "the list does not end" if at >= len(text) else "something stands after the list")


def _as_written(number: str) -> str:
    return number[:-2] if number.endswith(".0") else number


def _constant(name: str) -> str | None:
    """None for NaN, which programs write for a missing value."""
    return None if name == "NaN" else name


def read_parquet_rows(content: bytes, path: Path) -> Rows:
    """The rows of a Parquet file. Lists, structures and bytes are not read as text. Raises UserError if the file is damaged."""
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        require_columns_of_a_table(file.schema_arrow.names, path)
        if file.metadata.num_rows > MAX_ROWS:
            raise UserError(f"{path} says it has {file.metadata.num_rows:,} rows: a table has no more than {MAX_ROWS:,}")
        nested = {field.name for field in file.schema_arrow if pa.types.is_nested(field.type) or _is_binary(field.type)}
        names = [name for name in file.schema_arrow.names if not INDEX.fullmatch(name)]
        table = file.read(columns=list(dict.fromkeys(name for name in names if name not in nested)))
        columns: list[list[Any]] = []
        for name in names:
            if name in nested:
                columns.append([()] * table.num_rows)
            else:
                columns.append(table.column(name).to_pylist())
    except (pa.ArrowException, ValueError, OSError, KeyError, OverflowError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {one_line(error)}") from error
    return _of_columns(names, columns, range(1, 1 + table.num_rows), "row", ())


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _of_columns(names: list[str], columns: Sequence[Sequence[Any]], places: Sequence[int], unit: str, notes: tuple[str, ...]) -> Rows:
    doubts: dict[tuple[int, int], Doubt] = {}
    texts: list[list[str]] = []
    for position, column in enumerate(columns):
        own: list[str] = []
        for row, value in enumerate(column):
            if isinstance(value, str):
                own.append(value)
                continue
            text, doubt = _text_of(value)
            own.append(text)
            if doubt is not None:
                doubts[row, position] = doubt
        texts.append(own)
    cells = [list(row) for row in zip(*texts, strict=True)]
    kept = [row for row, own in enumerate(cells) if not is_blank(own) or any((row, column) in doubts for column in range(len(names)))]
    if len(kept) == len(cells):
        return Rows(names, cells, places, unit, notes=notes, doubts=doubts)
    blank = kept[-1] + 1 - len(kept) if kept else 0
    moved = {row: i for i, row in enumerate(kept)}
    doubts = {(moved[row], column): doubt for (row, column), doubt in doubts.items()}
    return Rows(names, [cells[row] for row in kept], [places[row] for row in kept], unit, 1, 0, blank, notes, doubts)


def _text_of(value: object) -> tuple[str, Doubt | None]:
    match value:
        case None | int() | float() | Decimal():
            return scalar_text(value), None
        case timedelta():
            return number_text(value.total_seconds()), None
        case time():
            return value.isoformat(), Doubt("a time of day: write it as text", "h:mm:ss")
        case datetime() | date():
            return value.isoformat(), Doubt("a date: write it as text")
        case _:
            return "", Doubt(f"{_describe(value)}, not text: write one text in a cell, and a row for each caption")


def _describe(value: object) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case ():
            return "lists, structures or bytes"
        case _:
            return quote(value)
