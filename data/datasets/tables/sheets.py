"""Read workbooks of Excel and LibreOffice (.xlsx) with openpyxl, which is needed only for them."""

import functools
import io
import re
import warnings
import zipfile
import zlib
from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

from data.base.errors import UserError, one_line
from data.base.quoting import quote
from data.datasets.tables.cells import HEADER_ROWS, Doubt, IsHeader, Rows, find_header, number_text, require_columns_of_a_table

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

MAX_BYTES = 2**29
"""Limit on the unpacked size of a workbook: a sheet of a million captions needs half of it."""
LONGEST_NUMBER = 10**15
"""Excel keeps 15 digits of a number and replaces the rest by zeros."""
AS_TEXT = "format the column as text and write it again"
MAX_MERGED = 2**21
"""Limit on the number of merged cells, because openpyxl makes an object of each. A whole column has half as many."""
MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\s[^>]*ref\s*=\s*["']([A-Z]{1,3})(\d{1,9}):([A-Z]{1,3})(\d{1,9})["']""")
ZEROS = re.compile("00+")
"""The format of numbers shown with leading zeros, as in file names."""
FORMULA = re.compile(rb"<(?:\w+:)?f[ >/]")
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, ParseError, OSError, EOFError),
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, NotImplementedError, RuntimeError),
)
"""Exceptions that zipfile and openpyxl raise for invalid files."""


@dataclass(frozen=True)
class _Sheet:
    """The texts and doubts of the cells of a sheet, by row and column, counted from 1. Empty cells are left out."""

    title: str
    texts: dict[int, dict[int, str]]
    doubts: dict[tuple[int, int], Doubt]
    hidden: frozenset[int]
    merged: int
    is_hidden: bool


def read_sheet_rows(content: bytes, path: Path, is_header: IsHeader) -> Rows:
    """The rows of the sheet that has a header, which may come below a title.

    The text of a cell is what the cell shows: the last value of a formula, the digits of a number, a time as `h:mm` or `h:mm:ss.fff`. All
    merged cells have the value of the first.

    Raises UserError if openpyxl is missing, if the file is damaged or not a workbook, or if several sheets have a header.
    """
    _require_workbook(content, path)
    sheets = [_read_sheet(sheet, formulas) for sheet, formulas in _open(content, path)]
    having = [sheet for sheet in sheets if _header_of(sheet, is_header) is not None]
    chosen = [sheet for sheet in having if not sheet.is_hidden] or having
    if len(chosen) > 1:
        titles = ", ".join(quote(sheet.title) for sheet in chosen)
        raise UserError(f"{path}: the sheets {titles} could all be the table: keep one of them in the file, or save it as CSV")
    filled = [sheet for sheet in sheets if sheet.texts]
    if not filled:
        raise UserError(f"{path} is empty: no sheet holds anything")
    return _rows_of((chosen or filled)[0], path, is_header, len(sheets))


def _require_workbook(content: bytes, path: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            size = sum(info.file_size for info in archive.infolist())
            kind = archive.read("mimetype") if "mimetype" in names and size < MAX_BYTES else b""
    except BROKEN as error:
        raise _damaged(path, error) from error
    if b"opendocument" in kind:
        raise UserError(f"{path} is a sheet of OpenDocument: save it as .xlsx or CSV")
    if not any(name.lower() in ("xl/workbook.xml", "xl/workbook.bin") for name in names):
        raise UserError(f"{path} is a ZIP archive but not a workbook: unpack it, and name the table")
    if "xl/workbook.bin" in names:
        raise UserError(f"{path} is a binary workbook (.xlsb): save it as .xlsx or CSV")
    if size > MAX_BYTES:
        raise UserError(f"{path} unpacks to {size / 2**20:,.0f} MiB: save the table as CSV")


def _open(content: bytes, path: Path) -> Iterator[tuple["Worksheet", frozenset[tuple[int, int]]]]:
    """The sheets, with the last values of formulas, and the cells of each sheet that hold a formula."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UserError(f"{path} is a workbook, which openpyxl reads: pip install -r requirements-xlsx.txt, or save it as CSV") from error
    try:
        # openpyxl warns of pictures, styles and rules that it drops.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            formulas = load_workbook(io.BytesIO(content)) if _has_formulas(content, path) else None
            book = load_workbook(io.BytesIO(content), data_only=True)
            sheets = [(sheet, _formulas_of(formulas, sheet.title)) for sheet in book.worksheets]
    except BROKEN as error:
        raise _damaged(path, error) from error
    yield from sheets


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as a workbook ({one_line(error)}): open it and save it again, or as CSV")


def _has_formulas(content: bytes, path: Path) -> bool:
    """Whether the workbook holds a formula. Raises UserError if it has more than MAX_MERGED merged cells."""
    found, merged = False, 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            xml = archive.read(name) if name.lower().endswith(".xml") else b""
            found = found or FORMULA.search(xml) is not None
            for left, top, right, bottom in MERGED.findall(xml):
                merged += (1 + abs(_column(right) - _column(left))) * (1 + abs(int(bottom) - int(top)))
    if merged > MAX_MERGED:
        raise UserError(f"{path} merges {merged:,} cells: undo that, or save the table as CSV")
    return found


def _column(letters: bytes) -> int:
    """The number of a column, from 1: 28 for AB."""
    return functools.reduce(lambda number, letter: 26 * number + letter - ord("A") + 1, letters, 0)


def _formulas_of(book: "Workbook | None", title: str) -> frozenset[tuple[int, int]]:
    if book is None:
        return frozenset()
    # `_cells` holds only cells with content. `iter_rows` would create every cell up to the last one ever touched.
    return frozenset(place for place, cell in book[title]._cells.items() if cell.data_type == "f")


def _read_sheet(sheet: "Worksheet", formulas: frozenset[tuple[int, int]]) -> _Sheet:
    texts: dict[int, dict[int, str]] = {}
    doubts: dict[tuple[int, int], Doubt] = {}
    cells: Mapping[tuple[int, int], Any] = sheet._cells
    for (row, column), cell in cells.items():
        if cell.value is None:
            if (row, column) in formulas:
                doubts[row, column] = Doubt("a formula without its value: open the file in a spreadsheet and save it again")
            continue
        text, doubt = _text_of(cell.value, cell.number_format or "", cell.data_type)
        if text and not text.isspace():
            texts.setdefault(row, {})[column] = text
        if doubt is not None:
            doubts[row, column] = doubt
    filled = sorted(texts)
    merged = 0
    for area in sheet.merged_cells.ranges:
        first = (area.min_row, area.min_col)
        text = texts.get(area.min_row, {}).get(area.min_col, "")
        # Cells merged across columns are titles.
        if not text or area.min_row == area.max_row or area.min_col != area.max_col:
            continue
        merged += 1
        for row in filled[bisect(filled, area.min_row) : bisect(filled, area.max_row)]:
            texts[row][area.min_col] = text
            if first in doubts:
                doubts[row, area.min_col] = doubts[first]
    hidden = frozenset(row for row, dimension in sheet.row_dimensions.items() if dimension.hidden)
    return _Sheet(sheet.title, texts, doubts, hidden, merged, sheet.sheet_state != "visible")


def _text_of(value: object, number_format: str, data_type: str) -> tuple[str, Doubt | None]:
    """The text of a cell, and a doubt if Excel may have changed it: Excel turns text into dates, times and rounded numbers."""
    if data_type == "e":
        return str(value), Doubt(f"the error {value}: correct the formula, or clear the cell")
    match value:
        case bool():
            return str(value).upper(), None
        case int() | float():
            text = number_text(float(value)) if isinstance(value, float) or abs(value) < LONGEST_NUMBER else str(value)
            if ZEROS.fullmatch(number_format) and text.isdecimal():
                text = text.zfill(len(number_format))
            if number_format.endswith("%"):
                return text, Doubt(f"a percentage: {AS_TEXT}")
            long = abs(value) >= LONGEST_NUMBER
            return text, Doubt(f"a number of more digits than Excel keeps: {AS_TEXT}") if long else None
        case time():
            seconds = timedelta(
                hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
            ).total_seconds()
            return _clock(seconds, number_format)
        case timedelta():
            return _clock(value.total_seconds(), number_format)
        case datetime() | date():
            return value.isoformat(), Doubt(
                "a date, which Excel makes of what looks like one: format the column as text and write it again"
            )
        case _:
            return re.sub(r"_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), str(value)), None


def _clock(seconds: float, number_format: str) -> tuple[str, Doubt]:
    """A time as its cell shows it. Excel stores 1:30 as one hour and a half, whatever its author meant, and shows 1:30."""
    seconds = round(seconds, 3)
    hours, minutes, rest = int(seconds // 3600), int(seconds % 3600 // 60), seconds % 60
    if "s" not in number_format.lower() and rest < 0.0005:
        return f"{hours}:{minutes:02}", Doubt(f"a time of day: {AS_TEXT}", "h:mm")
    return f"{hours}:{minutes:02}:{rest:06.3f}".removesuffix(".000"), Doubt(f"a time of day: {AS_TEXT}", "h:mm:ss")


def _header_of(sheet: _Sheet, is_header: IsHeader) -> int | None:
    """The row of the header."""
    numbers = sorted(sheet.texts)[:HEADER_ROWS]
    found = find_header([list(sheet.texts[number].values()) for number in numbers], is_header)
    return None if found is None else numbers[found]


def _rows_of(sheet: _Sheet, path: Path, is_header: IsHeader, sheets: int) -> Rows:
    numbers = sorted(sheet.texts.keys() | {row for row, _ in sheet.doubts})
    header = _header_of(sheet, is_header) or min(sheet.texts)
    above = numbers.index(header)
    # Only named columns: one cell far to the right would lengthen every row.
    named = sorted(sheet.texts[header])
    columns = [sheet.texts[header][column] for column in named]
    require_columns_of_a_table(columns, path)
    below = [
        number for number in numbers[above + 1 :] if any((number, c) in sheet.doubts or c in sheet.texts.get(number, {}) for c in named)
    ]
    cells = [[sheet.texts.get(number, {}).get(column, "") for column in named] for number in below]
    position, at = {number: i for i, number in enumerate(below)}, {column: i for i, column in enumerate(named)}
    doubts = {(position[row], at[column]): doubt for (row, column), doubt in sheet.doubts.items() if row in position and column in at}
    blank = below[-1] - header - len(below) if below else 0
    hidden = len(sheet.hidden.intersection(below))
    notes = [f"the sheet {quote(sheet.title)} of {sheets}"] if sheets > 1 else []
    notes += [f"{hidden:,} hidden rows are read as well"] if hidden else []
    notes += [f"{sheet.merged:,} merged cells count for each of their rows"] if sheet.merged else []
    unit = f"sheet {quote(sheet.title)}, row" if sheets > 1 else "row"
    return Rows(columns, cells, below, unit, header, above, blank, tuple(notes), doubts)
