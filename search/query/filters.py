"""Filters: which videos of a gallery may be found, by path, length, date of the file, and the columns of a table.

Shape suffix: B videos of the gallery.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import translate
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.quoting import quote

Operator: TypeAlias = Literal["=", "!=", "<=", ">=", "<", ">", "~"]
_CONDITION = re.compile("(?P<column>.+?)(?P<operator>!=|<=|>=|==?|<|>|~)(?P<value>.*)", re.DOTALL)
"""Without blanks, whose patterns beside `.+?` would take hours for a text of thousands of them."""
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
"""With or without commas between thousands."""
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([ T].*)?)?)?", re.ASCII)
"""A year, or as much of a date and time as is known, from the year on."""
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Condition:
    """`COLUMN OPERATOR VALUE`. A number or a date compares with cells that are one too, and differs from all others; other text compares
    without regard to case. `~` is "contains"."""

    column: str
    operator: Operator
    value: str

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{self.value}"


@dataclass(frozen=True)
class Filter:
    """All of these must hold.

    path: shell patterns, of which one must match the file's path below the video folder, or the id; `*` also matches `/`. A pattern
        without wildcards matches any path that contains it.
    min_length, max_length: seconds of the video.
    since, until: date of the file, both included, in local time.
    where: conditions on the columns of the user's table.
    """

    path: tuple[str, ...] = ()
    min_length: float | None = None
    max_length: float | None = None
    since: date | None = None
    until: date | None = None
    where: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Attributes:
    """What filters look at, for every video of the gallery.

    length_B: seconds, to 1 / fps. mtime_ns_B: modification time of the file, 0 if unknown. table: the cells of the user's table by column,
    "" where a video has none; None without a table.
    """

    ids: Sequence[str]
    files: Sequence[str]
    length_B: NDArray[np.float64]
    mtime_ns_B: NDArray[np.int64]
    table: Mapping[str, Sequence[str]] | None = None


def parse_condition(text: str, name: str) -> Condition:
    """Read `COLUMN OPERATOR VALUE`. `name` is what the user calls the option, for errors. Raises UserError."""
    found = _CONDITION.fullmatch(text.strip())
    if found is None:
        raise UserError(f"{name} {quote(text)} must be COLUMN=VALUE, or with !=, <, <=, >, >= or ~ (contains) in place of =")
    operator = "=" if found["operator"] == "==" else found["operator"]
    return Condition(found["column"].strip(), operator, found["value"].strip())  # type: ignore[arg-type]


def parse_date(text: str, name: str) -> date:
    """Read a date such as 2024-05-31. Raises UserError."""
    try:
        return date.fromisoformat(text.strip())
    except ValueError as error:
        raise UserError(f"{name} {quote(text)} must be a date such as 2024-05-31") from error


def kept(wanted: Filter, of: Attributes) -> NDArray[np.bool_]:
    """Which videos pass the filter [B]. A video whose date is unknown, or which the table does not list, passes no condition on it.

    Raises UserError for conditions without a table, on a column that the table lacks, or that compare numbers or dates where it has none.
    """
    kept_B = np.ones(len(of.ids), dtype=bool)
    if wanted.path:
        # fnmatch.fnmatchcase would keep the last 32,768 patterns compiled, which are GBs if they are long.
        patterns = [re.compile(translate(one if _WILDCARD.search(one) else f"*{one}*")) for one in wanted.path]
        kept_B &= [
            any(pattern.match(name) for pattern in patterns for name in (file, video_id) if name)
            for file, video_id in zip(of.files, of.ids, strict=True)
        ]
    if wanted.min_length is not None:
        kept_B &= of.length_B >= wanted.min_length
    if wanted.max_length is not None:
        kept_B &= of.length_B <= wanted.max_length
    if wanted.since is not None or wanted.until is not None:
        days = [file_day(int(mtime_ns)) for mtime_ns in of.mtime_ns_B]
        first, last = wanted.since or date.min, wanted.until or date.max
        kept_B &= [day is not None and first <= day <= last for day in days]
    for condition in wanted.where:
        cells = _column(condition, of)
        _require_like(condition, cells)
        kept_B &= [_holds(condition, cell) for cell in cells]
    return kept_B


def file_day(mtime_ns: int) -> date | None:
    """The day of a modification time, in local time; None for 0, which means unknown."""
    return datetime.fromtimestamp(mtime_ns / 1e9, UTC).astimezone().date() if mtime_ns else None


def _column(condition: Condition, of: Attributes) -> Sequence[str]:
    if of.table is None:
        raise UserError(f"a condition on the column {quote(condition.column)} needs a table: name one with --table")
    folded = {name.casefold(): cells for name, cells in of.table.items()}
    if condition.column.casefold() not in folded:
        raise UserError(f"the table of --table has no column {quote(condition.column)}: it has {', '.join(map(quote, of.table))}")
    return folded[condition.column.casefold()]


def _require_like(condition: Condition, cells: Sequence[str]) -> None:
    """Raise UserError if a number or date is compared with cells of which none is one."""
    filled = [cell for cell in cells if cell]
    if condition.operator in ("<", "<=", ">", ">=") and filled and all(_order(cell, condition.value) is None for cell in filled):
        raise UserError(
            f"{quote(str(condition))} compares numbers or dates, and its column has none ({quote(filled[0])}): write them like 1234.5 and "
            "2024-05-31"
        )


def _holds(condition: Condition, cell: str) -> bool:
    if not cell:
        return False
    if condition.operator == "~":
        return condition.value.casefold() in cell.casefold()
    order = _order(cell, condition.value)
    if order is None:
        return condition.operator == "!="
    return {"=": order == 0, "!=": order != 0, "<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[condition.operator]


def _order(cell: str, value: str) -> int | None:
    """-1, 0 or 1, as the cell is less than, equal to or greater than the value; None if only the value is a number or a date.

    Of dates, as much counts as the value says: the cell 2024-05-31 08:00 equals 2024-05-31, and 2024-05.
    """
    left, right = _number(cell), _number(value)
    if left is not None and right is not None:
        return (left > right) - (left < right)
    if _DATE.fullmatch(value) and _DATE.fullmatch(cell):
        # A T or a blank may stand before the time.
        one, other = cell[: len(value)].replace("T", " "), value.replace("T", " ")
    elif right is not None or _DATE.fullmatch(value):
        return None
    else:
        one, other = cell.casefold(), value.casefold()
    return (one > other) - (one < other)


def _number(text: str) -> float | None:
    """The number that a text is; None if it is none. NaN, as some programs write an empty cell, is none."""
    return float(text.replace(",", "")) if _NUMBER.fullmatch(text) and any(map(str.isdigit, text)) else None
