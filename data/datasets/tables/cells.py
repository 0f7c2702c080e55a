"""Rows of text and their places in a file, the same for all file formats."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Literal, NamedTuple

from data.base.errors import UserError
from data.base.quoting import quote

HEADER_ROWS = 20
"""Number of rows to search for the header: titles may come before it."""
MAX_COLUMNS = 1000
MAX_COLUMN_NAME = 1000

IsHeader = Callable[[Sequence[str]], bool]
"""Tests whether a row holds the names of the columns."""


class Doubt(NamedTuple):
    """Why the text of a cell may not be what its author wrote.

    what: what the cell holds.
    clock: for a time of day, the format of its text.
    """

    what: str
    clock: Literal["", "h:mm", "h:mm:ss"] = ""


@dataclass(frozen=True)
class Rows:
    """A table of text.

    cells: rows with one cell per column; missing cells are empty strings, and no row is blank.
    places: the number of each row in the file, in `unit`s ("line", "row").
    header: the number of the header in the file.
    above: the number of rows before the header.
    blank: the number of skipped blank rows.
    notes: how the format was interpreted, if that is not obvious.
    doubts: by row and column, the cells whose text may not be what their author wrote.
    """

    columns: list[str]
    cells: list[list[str]]
    places: Sequence[int]
    unit: str
    header: int = 1
    above: int = 0
    blank: int = 0
    notes: tuple[str, ...] = ()
    doubts: Mapping[tuple[int, int], Doubt] = field(default_factory=dict)

    def place(self, row: int) -> str:
        """The place of a row in the file, such as "line 3"."""
        return f"{self.unit} {self.places[row]}"

    def with_note(self, note: str) -> "Rows":
        """A copy with this note, unless empty, before the others."""
        return replace(self, notes=(note, *self.notes)) if note else self


def find_header(rows: Sequence[Sequence[str]], is_header: IsHeader) -> int | None:
    """The index of the header among the first HEADER_ROWS rows; None if there is none."""
    return next((i for i, row in enumerate(rows[:HEADER_ROWS]) if is_header(row)), None)


def is_blank(row: Sequence[str]) -> bool:
    """Whether all cells are empty or white space."""
    joined = "".join(row)
    return not joined or joined.isspace()


def require_columns_of_a_table(names: Sequence[str], path: Path) -> None:
    """Raise UserError if there are too many columns for a table of captions, or if a column name is too long to be one."""
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{path} has {len(names):,} columns: a table of videos and captions has no more than {MAX_COLUMNS:,}")
    long = next((name for name in names if len(name) > MAX_COLUMN_NAME), None)
    if long is not None:
        raise UserError(f"{path} has a column with a name of {len(long):,} characters, {quote(long)}: is there a line of column names?")


def scalar_text(value: float | Decimal | None) -> str:
    """The text of a number, "true" or "false" for a boolean, and "" for None and NaN, in files with types."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float() if math.isnan(value):
            return ""
        case float() if math.isfinite(value):
            return number_text(value)
        case _:
            return str(value)


def number_text(value: float) -> str:
    """A number as a person would write it: 123 for 123.0."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else format(value, ".15g")
