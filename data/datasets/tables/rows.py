"""Read a table file of any supported format into rows of text. The content decides the format, not the suffix."""

import re
from pathlib import Path

from data.base.errors import UserError
from data.datasets.files import read_bytes
from data.datasets.tables.cells import IsHeader, Rows
from data.datasets.tables.delimited import read_delimited
from data.datasets.tables.encodings import decode
from data.datasets.tables.records import JSON_BEGINS, read_json_rows, read_parquet_rows
from data.datasets.tables.sheets import read_sheet_rows

FORMS = "CSV, JSON Lines, Parquet or .xlsx"

OTHERS = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel file (.xls), or one with a password: open it and save it as .xlsx or CSV"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it"),
    (b"BZh", "compressed by bzip2: unpack it"),
    (b"\xfd7zXZ\0", "compressed by xz: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "an archive: unpack it"),
    (b"SQLite format 3\0", f"a database of SQLite: export the table as {FORMS}"),
    (b"ARROW1", f"an Arrow or Feather file: save the table as {FORMS}"),
    (b"\x89HDF", f"an HDF5 file: save the table as {FORMS}"),
    (b"\x80", f"a pickle: save the table as {FORMS}"),
    (b"%PDF", f"a PDF: save the table as {FORMS}"),
)
"""First bytes of files that are not tables, and the end of the error message for each."""
HTML = re.compile(r"\s*<(?:!doctype|html|table|\?xml)", re.IGNORECASE)

SQL = re.compile(r"\s*(?:--|/\*|(?:CREATE|INSERT|DROP|USE|SET|BEGIN|PRAGMA)\s)")


def read_rows(path: Path, is_header: IsHeader) -> Rows:
    """The rows of a table: CSV and similar, JSON Lines, a JSON list of objects, Parquet or .xlsx.

    Raises UserError, with the place in the file if there is one, if the table cannot be read.
    """
    if path.is_dir():
        raise UserError(f"--annotations {path} is a folder: name the file of the table, or the data set with --dataset")
    content = read_bytes(path)
    if content.startswith(b"PAR1"):
        return read_parquet_rows(content, path)
    if content.startswith(b"PK\3\4"):
        return read_sheet_rows(content, path, is_header)
    kind = next((kind for magic, kind in OTHERS if content.startswith(magic)), None)
    if kind is not None:
        raise UserError(f"{path} is {kind}")
    text, encoding = decode(content, path)
    if not text.strip():
        raise UserError(f"{path} is empty: place the annotation file there again")
    if HTML.match(text):
        raise UserError(f"{path} is a web page or XML: save the table as {FORMS}")
    if SQL.match(text) and re.search(r"\bINSERT\s+INTO\b", text):
        raise UserError(f"{path} is SQL: save the table as {FORMS}")
    rows = read_json_rows(text, path, is_header) if JSON_BEGINS.match(text) else read_delimited(text, path, is_header)
    return rows.with_note(encoding)
