"""Any bytes and any cells give a data set that a cache can hold, or one line."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.table_files import HEADER, WRITERS, outcome

PIECES = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b'"',
    b"{",
    b"]",
    b"\n",
    b"\t",
    b",",
    b";",
    b"\r",
    b"=",
    b"1:30",
    b"PK\3\4",
    b"PAR1",
    b"\\",
    b"<v>",
]

GOOD: list[list[Any]] = [
    ["a.mp4", "a; b", "train", "1", 0.5, 3.0],
    ["b.mp4", "c\nd", "val", "2", None, 90.0],
    ["b.mp4", "é", "val", "2", None, 90.0],
]


@settings(max_examples=150, deadline=None)
@given(content=st.binary(min_size=1, max_size=60) | st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_any_bytes(table_folder: Path, content: bytes) -> None:
    outcome(table_folder, content)
    outcome(table_folder, b"video,caption,start\n" + content)


@pytest.mark.parametrize("form", WRITERS)
@settings(max_examples=60, deadline=None)
@given(
    spoiling=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=4)), min_size=1, max_size=3
    )
)
def test_spoiled_tables(table_folder: Path, form: str, spoiling: list[tuple[float, int, bytes]]) -> None:
    content = WRITERS[form](GOOD)
    if form == "xlsx":
        # Within the sheet; the archive finds what is spoiled in itself.
        whole = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(whole, "w") as new:
            for name in old.namelist():
                new.writestr(name, spoil(old.read(name), spoiling) if "sheet1" in name else old.read(name))
        outcome(table_folder, whole.getvalue())
    outcome(table_folder, spoil(content, spoiling))


def spoil(content: bytes, spoiling: list[tuple[float, int, bytes]]) -> bytes:
    for where, length, piece in spoiling:
        at = int(where * len(content))
        content = content[:at] + piece + content[at + length :]
    return content


CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["a.mp4", "1:30", "train", "", " "])


@settings(max_examples=60, deadline=None)
@given(cells=st.lists(st.lists(CELLS, min_size=6, max_size=6), max_size=4), header=st.permutations(HEADER))
def test_any_cells(table_folder: Path, cells: list[list[Any]], header: list[str]) -> None:
    outcome(table_folder, "".join(f"{json.dumps(dict(zip(header, row, strict=True)))}\n" for row in [*GOOD[:1], *cells]).encode())
    file = io.StringIO()
    csv.writer(file).writerows([header, *cells])
    outcome(table_folder, file.getvalue().encode("utf-8", "surrogatepass"))
