"""Read text files with one row per line and separators between columns: CSV in the dialects that common tools write."""

import csv
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.containers import is_video_name
from data.datasets.files import LINE_BREAK, other_count
from data.datasets.tables.cells import HEADER_ROWS, IsHeader, Rows, find_header, is_blank, require_columns_of_a_table

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""In the order of preference."""
EXCELS_FIRST_LINE = re.compile(r'\s*"?sep=([,;\t|])"?[ \t]*(?:\r\n|\r|\n)', re.IGNORECASE)
"""The first line by which some programs tell Excel the separator."""
RULE = re.compile(r"[-+:=]{3,}")
"""A rule below the header."""
SNIFFED = 2**16
"""Number of characters used to detect the separator."""


class _Dialect(NamedTuple):
    """A way of quoting cells: options of csv.reader, the text that a file must contain to try it, and a note for the user."""

    options: dict[str, Any]
    needs: str = ""
    note: str = ""


class _Lines(NamedTuple):
    """The records that are not blank, the first line of each, and the number of blank records before it."""

    records: list[list[str]]
    lines: list[int]
    blank: list[int]


def read_delimited(text: str, path: Path, is_header: IsHeader) -> Rows:
    """The rows of a file with separators.

    The separator is the one with which one of the first lines is a header. csv.Sniffer is not used: it counts recurring characters, and
    takes letters and spaces of captions for separators. Cells may be quoted; quotes inside are doubled or escaped with backslashes.

    Raises UserError, with the line, if a row does not have as many cells as the header, or a quote is not closed.
    """
    sep_line = EXCELS_FIRST_LINE.match(text)
    skipped = 0
    if sep_line:
        skipped = len(re.findall(r"\r\n|\r|\n", sep_line[0]))
        text = text[sep_line.end() :]
    separator = sep_line[1] if sep_line else _sniff(text[:SNIFFED], is_header)
    dialects = [
        _Dialect({}),
        _Dialect({"skipinitialspace": True}, f'{separator} "', "spaces before quotes are left out"),
        _Dialect({"doublequote": False, "escapechar": "\\"}, '\\"', "quotes after backslashes are read as quotes"),
        _Dialect({"quoting": csv.QUOTE_NONE}, '"', "quotes are read literally"),
    ]
    # Try the dialects of other tools before refusing the file.
    refusal: UserError | None = None
    for dialect in dialects:
        if dialect.needs not in text or ("quoting" in dialect.options and (separator != "\t" or _has_quoted(text))):
            continue
        try:
            lines = _parse(text, separator, dialect.options, skipped, path)
            rows = _rows(lines, separator, path, is_header)
        except UserError as error:
            refusal = refusal or error
            continue
        return rows.with_note(dialect.note).with_note("" if separator == "," else f"columns between {SEPARATORS[separator]}")
    assert refusal
    raise refusal


def _sniff(beginning: str, is_header: IsHeader) -> str:
    """The separator that yields a header; else the one with the most rows of equal length, so that the error shows separate cells."""
    found: dict[str, tuple[bool, int, int]] = {}
    for separator in SEPARATORS:
        records = [record for record in _first_records(beginning, separator) if record]
        lengths = [len(record) for record in records]
        usual = max(set(lengths), key=lengths.count, default=1)
        found[separator] = (find_header(records, is_header) is not None, lengths.count(usual) if usual > 1 else 0, usual)
    # `max` takes the first of equal separators.
    return max(SEPARATORS, key=lambda separator: found[separator])


def _first_records(beginning: str, separator: str) -> list[list[str]]:
    records: list[list[str]] = []
    with suppress(csv.Error):
        for record in csv.reader(io.StringIO(beginning, newline=""), delimiter=separator):
            records.append(record)
            if len(records) > 5 * HEADER_ROWS:
                break
    return records


def _parse(text: str, separator: str, options: dict[str, Any], skipped: int, path: Path) -> _Lines:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, **options)
    records: list[list[str]] = []
    lines: list[int] = []
    blank: list[int] = []
    before = blanks = 0
    try:
        for record in reader:
            if is_blank(record):
                blanks += bool(record)
            else:
                records.append(record)
                lines.append(skipped + before + 1)
                blank.append(blanks)
            before = reader.line_num
    except csv.Error as error:
        # An open quote runs to the end of the file, so name the line where its row begins.
        raise UserError(f"{path}, line {skipped + before + 1}: cannot be read as CSV: {error}{_remedy(str(error))}") from error
    return _Lines(records, lines, blank)


def _remedy(error: str) -> str:
    if "expected after" in error or "end of data" in error:
        return "; put a cell that holds quotes into quotes, and double those inside"
    return ""


def _rows(lines: _Lines, separator: str, path: Path, is_header: IsHeader) -> Rows:
    """The records below the header. Raises UserError if one has another length, or contains other rows because of an open quote."""
    records = lines.records
    if not records:
        raise UserError(f"{path} is empty: place the annotation file there again")
    found = find_header(records, is_header)
    first = found or 0
    # Without a header, report that instead of the number of fields in other lines.
    header, body, places = records[first], records[first + 1 :] if found is not None else [], lines.lines[first + 1 :]
    notes: list[str] = []
    if len(header) > 1 and all(name.startswith(" ") for name in header[1:] if name):
        # Markdown, SQL shells and many people write a space after every separator.
        header, body = [name.strip() for name in header], [[cell.strip() for cell in record] for record in body]
        kept = [i for i, record in enumerate(body) if not RULE.fullmatch("".join(record))]
        body, places = [body[i] for i in kept], [places[i] for i in kept]
        notes = ["spaces beside separators are left out"]
    if body and _are_numbered(body, len(header)):
        header, notes = ["", *header], [*notes, "the rows' numbers, which have no name, are left out"]
    named = header[: 1 + max((i for i, name in enumerate(header) if name.strip()), default=0)]
    require_columns_of_a_table(named, path)
    count = len(named)
    for i, record in enumerate(body):
        if len(record) != count:
            if len(record) < count or not is_blank(record[count:]):
                raise UserError(f"{path}, line {places[i]}: {other_count(len(record), len(header))}")
            body[i] = record[:count]
        swallowed = next((cell for cell in record if "\n" in cell or "\r" in cell if _holds_rows(cell, separator)), None)
        if swallowed is not None:
            raise UserError(
                f"{path}, line {places[i]}: a cell that begins with a quote, {quote(swallowed)}, goes on over rows that follow: close the "
                "quote, or put the cell into quotes and double those inside"
            )
    return Rows(
        named, body, places, "line", lines.lines[first], above=first, blank=lines.blank[-1] - lines.blank[first], notes=tuple(notes)
    )


def _are_numbered(body: Sequence[Sequence[str]], columns: int) -> bool:
    """Whether every row begins with a row number that the header does not name, as in files of R's write.table."""
    return all(len(record) == columns + 1 and record[0].isdecimal() and record[-1] for record in body)


def _holds_rows(cell: str, separator: str) -> bool:
    """Whether a line of a cell, after the first, looks like a row with a video file: the sign of a missing quote."""
    rows = (line.split(separator) for line in LINE_BREAK.split(cell)[1:] if separator in line)
    return any(is_video_name(Path(field.strip())) and " " not in field.strip() for row in rows for field in row if "\0" not in field)


def _has_quoted(text: str) -> bool:
    """Whether a whole cell between tabs is quoted."""
    return re.search(r'(?:^|\t)"[^\t]*"(?:\t|\r|\n|$)', text, re.MULTILINE) is not None
