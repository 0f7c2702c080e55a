"""Workbooks of spreadsheets: cells as they are shown, times, formulas, and what is no workbook."""

import datetime as dt
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.table_files import HEADER, edited, outcome, read, refusal, rows_of, with_format, workbook


@pytest.mark.parametrize("form", ["0%", "0.0%"])
def test_numbers_of_a_workbook_are_as_they_are_shown(table_folder: Path, form: str) -> None:
    def padded(book: Any) -> None:
        book.worksheets[0]["A2"].number_format = "000"

    assert read(table_folder, workbook([["video_id", "caption"], [7, "x"]], padded), name="t.xlsx").captions["video_id"].tolist() == ["007"]

    def percent(book: Any) -> None:
        book.worksheets[0]["C2"].number_format = form

    message = refusal(table_folder, workbook([["video", "caption", "start"], ["a.mp4", "x", 0.5]], percent), name="t.xlsx")
    assert "row 2: start holds a percentage: format the column as text" in message


def test_a_workbook_as_people_make_it(table_folder: Path) -> None:
    def change(book: Any) -> None:
        sheet = book.active
        sheet.title = "Clips"
        sheet.merge_cells("A1:D1")
        sheet.merge_cells("A4:A5")
        sheet.row_dimensions[5].hidden = True
        sheet.column_dimensions["A"].width = 40
        sheet["A2000"].number_format = "0.00"
        sheet["XFD6"] = "far away"
        book.create_sheet("Notes").append(["to do", "caption"])
        other = book.create_sheet("Old")
        other.append(["video", "caption"])
        other.append(["a.mp4", "old"])
        other.sheet_state = "hidden"

    rows: list[list[Any]] = [
        ["All my clips"],
        [],
        ["Video", "Caption", "Split", "ID"],
        ["a.mp4", "x", "Train", 1],
        [None, 17, "Train", 2],
        [None] * 4,
        ["b.mp4", True, "dev", 3.5],
    ]
    found = read(table_folder, workbook(rows, change), name="table.xlsx")
    expected = [["a.mp4", "x", "train"], ["a.mp4", "17", "train"], ["b.mp4", "TRUE", "val"]]
    assert found.captions.to_numpy().tolist() == expected
    assert found.notes == (
        "table.xlsx: the sheet 'Clips' of 3; 1 hidden rows are read as well; 1 merged cells count for each of their rows; "
        "left out above the header: 1 row; 'Train' counts as train, 'dev' counts as val; not read: 'ID'",
        "table.xlsx: blank rows skipped: 1",
    )


def test_times_that_a_spreadsheet_made_of_what_was_typed(table_folder: Path) -> None:
    """1:30 is kept as one hour and a half and shown as 1:30."""
    table: list[list[Any]] = [["video", "caption", "start", "end"], ["a.mp4", "x", dt.time(1, 30), dt.time(1, 45)]]
    found = read(table_folder, workbook(table, with_format(C2="h:mm", D2="h:mm")))
    assert rows_of(found) == [["a.mp4", "x", "search", 90.0, 105.0]]
    assert found.notes[0] == "table.csv: times h:mm count as minutes and seconds"
    table = [["video", "caption", "start", "end"], ["a.mp4", "x", dt.time(0, 1, 30, 500_000), dt.timedelta(hours=1, seconds=3)]]
    found = read(table_folder, workbook(table, with_format(C2="hh:mm:ss.000", D2="[h]:mm:ss")))
    assert rows_of(found) == [["a.mp4", "x", "search", 90.5, 3603.0]]
    # 25:30 is more than a day, and is shown with seconds.
    table = [["video", "caption", "start", "end"], ["a.mp4", "x", dt.time(1, 30), dt.timedelta(hours=25, minutes=30)]]
    message = refusal(table_folder, workbook(table, with_format(C2="h:mm", D2="[h]:mm:ss")))
    assert "a time is 25:30:00 in row 2 and 1:30 in row 2, and a spreadsheet may have taken one for hours" in message


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (dt.date(2024, 5, 5), "caption holds a date, which Excel makes of what looks like one: format the column as text"),
        (dt.time(1, 30), "caption holds a time of day: format the column as text and write it again"),
        ("=B1", "caption holds a formula without its value: open the file in a spreadsheet and save it again"),
        ("#N/A", "caption holds the error #N/A: correct the formula, or clear the cell"),
        (12345678901234567, "caption holds a number of more digits than Excel keeps"),
    ],
)
def test_cells_that_are_not_what_was_written(table_folder: Path, cell: Any, said: str) -> None:
    table: list[list[Any]] = [["video", "caption"], ["a.mp4", "x"], ["a.mp4", cell]]
    assert f"table.csv, row 3: {said}" in refusal(table_folder, workbook(table))
    # Where nobody reads them they are no matter.
    assert len(read(table_folder, workbook([["video", "caption", "other"], ["a.mp4", "x", cell]])).captions) == 1


def test_formulas_have_the_values_that_were_last_computed(table_folder: Path) -> None:
    content = workbook([["video", "caption"], ["a.mp4", "=CONCAT(1,2)"]])
    assert read(table_folder, edited(content, b"<v />", b"<v>12</v>")).captions["caption"].tolist() == ["12"]


def test_workbooks_that_are_not_read(table_folder: Path) -> None:
    def twice(book: Any) -> None:
        book.create_sheet("Old").append(["file", "text"])

    assert "the sheets 'Sheet', 'Old' could all be the table" in refusal(
        table_folder, workbook([["video", "caption"], ["a.mp4", "x"]], twice)
    )
    for names, said in (
        ({"mimetype": "application/vnd.oasis.opendocument.spreadsheet"}, "a sheet of OpenDocument"),
        ({"table.csv": "x"}, "a ZIP archive"),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in names.items():
                archive.writestr(name, content)
        assert said in refusal(table_folder, file.getvalue())
    merged = edited(
        workbook([["video", "caption"]]), b"</sheetData>", b'</sheetData><mergeCells><mergeCell ref="A3:XFD1048576"/></mergeCells>'
    )
    assert "merges 17,179,836,416 cells: undo that" in refusal(table_folder, merged)
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + b"".join(
        f'<!ENTITY {new} "{f"&{old};" * 10}">'.encode() for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
    bombed = edited(edited(workbook([["video", "caption"]]), b"<worksheet", bomb + b"]><worksheet"), b">video<", b">&j;<")
    assert "cannot be read as a workbook" in refusal(table_folder, bombed)
    assert "is empty: no sheet holds anything" in refusal(table_folder, workbook([]))


def test_without_openpyxl_a_workbook_names_it(table_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = workbook([["video", "caption"], ["a.mp4", "x"]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    said = refusal(table_folder, content)
    assert "is a workbook, which openpyxl reads: pip install -r requirements-xlsx.txt, or save it as CSV" in said


TYPED = (
    st.none()
    | st.booleans()
    | st.integers(-(10**16), 10**16)
    | st.floats(-1e6, 1e6)
    | st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2050, 1, 1))
    | st.times()
)


@settings(max_examples=30, deadline=None)
@given(cells=st.lists(st.lists(TYPED | st.sampled_from(["a.mp4", "=A1", "#REF!", "x"]), min_size=6, max_size=6), max_size=4))
def test_any_cells_of_a_workbook(table_folder: Path, cells: list[list[Any]]) -> None:
    outcome(table_folder, workbook([HEADER, *cells]))
