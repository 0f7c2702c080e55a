"""Rows of text and their places in a file, in whatever form the file has them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from data.base.errors import UserError
from data.base.quoting import quote

HEADER_ROWS = 20
"""So many rows are looked through for the one with the names of the columns: titles may stand above it."""
MAX_COLUMNS = 1000
MAX_COLUMN_NAME = 1000

IsHeader = Callable[[Sequence[str]], bool]
"""Whether a row holds the names of the columns."""


class Doubt(NamedTuple):
    """Why the text of a cell may not be what its author wrote.

    `what` the cell holds; `clock`: for a time of day, whether its text has seconds.
    """

    what: str
    clock: Literal["", "h:mm", "h:mm:ss"] = ""


@dataclass(frozen=True)
class Rows:
    """A table of text.

    `cells`: rows of as many cells as there are columns, the empty string where there is nothing; no row is blank altogether.
    `places`: the number of each row in the file, `header` that of the names of the columns; `unit` says of what: "line", "row".
    `above`: rows before the header, `blank`: blank rows between others. `notes`: what the form was taken for, where it is
    not the plain one. `doubts`: by row and column, cells whose text may not be what was written.
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
        """Where a row stands in the file."""
        return f"{self.unit} {self.places[row]}"

    def with_note(self, note: str) -> "Rows":
        """The same rows with one more note before the others, if there is one."""
        return replace(self, notes=(note, *self.notes)) if note else self


def find_header(rows: Sequence[Sequence[str]], is_header: IsHeader) -> int | None:
    """The first row that is one, of those looked through."""
    return next((i for i, row in enumerate(rows[:HEADER_ROWS]) if is_header(row)), None)


def is_blank(row: Sequence[str]) -> bool:
    """Whether no cell holds anything but spaces."""
    joined = "".join(row)
    return not joined or joined.isspace()


def require_columns_of_a_table(names: Sequence[str], path: Path) -> None:
    """Raises UserError if there are more columns than any table of captions has, or a name is a whole text."""
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{path} has {len(names):,} columns: a table of videos and captions has no more than {MAX_COLUMNS:,}")
    long = next((name for name in names if len(name) > MAX_COLUMN_NAME), None)
    if long is not None:
        raise UserError(f"{path} has a column with a name of {len(long):,} characters, {quote(long)}: is there a line of column names?")


def number_text(value: float) -> str:
    """A number as a person wrote it: 123 where a program keeps 123.0."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else format(value, ".15g")
