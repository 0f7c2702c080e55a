"""Tables as people have them: whatever form, encoding and column names, one Dataset, or one line that says what is wrong and where."""

import csv
import datetime as dt
import io
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate
import extract
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.check import CheckOptions, check
from data.datasets import Dataset, find_preset, read_dataset, shares_of
from data.datasets.division import divide
from data.datasets.tables.times import seconds_of
from evaluate import EvaluateOptions
from extract import ExtractOptions
from tests.conftest import DEMO_CLIP
from tests.videos import numbered_video
from train_head import TrainOptions
from train_head.scoring.splits import load_split

BUDGET = 10**9
NAMES = [*"abcdefgh"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty files under the names of videos, and a place for a table beside them."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "videos").mkdir()
    for name in NAMES:
        (folder / "videos" / f"{name}.mp4").touch()
    return folder


def read(folder: Path, content: str | bytes, shares: str | None = None, name: str = "table.csv") -> Dataset:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_dataset("table", find_preset("table", None, path), path, folder / "videos", shares_of(shares) if shares else None)


def refusal(folder: Path, content: str | bytes, shares: str | None = None, name: str = "table.csv") -> str:
    with pytest.raises(UserError) as error:
        read(folder, content, shares, name)
    message = str(error.value)
    assert "\n" not in message
    return message


def rows_of(dataset: Dataset) -> list[list[Any]]:
    """The rows of the captions, each with its segment."""
    table = dataset.captions.merge(dataset.videos[["video_id", "start", "end"]], on="video_id", how="left")
    return table[["video_id", "caption", "split", "start", "end"]].fillna(-1.0).to_numpy().tolist()


def workbook(rows: Iterable[list[Any]], change: Callable[[Any], None] = lambda book: None) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    change(book)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


HEADER = ["video", "caption", "split", "video_id", "start", "end"]
Logical = list[list[Any]]


def delimited(rows: Logical, separator: str, encoding: str) -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=separator).writerows([HEADER, *rows])
    return file.getvalue().encode(encoding)


def frame(rows: Logical) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=HEADER)


def objects(rows: Logical) -> list[dict[str, Any]]:
    return [dict(zip(HEADER, row, strict=True)) for row in rows]


def parquet(rows: Logical) -> bytes:
    file = io.BytesIO()
    frame(rows).to_parquet(file)
    return file.getvalue()


WRITERS: dict[str, Callable[[Logical], bytes]] = {
    "csv": lambda rows: delimited(rows, ",", "utf-8"),
    "csv with a mark": lambda rows: delimited(rows, ",", "utf-8-sig"),
    "semicolons": lambda rows: delimited(rows, ";", "utf-8"),
    "semicolons of Excel": lambda rows: b"sep=;\r\n" + delimited(rows, ";", "utf-8"),
    "tabs in UTF-16": lambda rows: delimited(rows, "\t", "utf-16"),
    "tabs in UTF-16 without a mark": lambda rows: delimited(rows, "\t", "utf-16-le"),
    "big-endian UTF-16": lambda rows: b"\xfe\xff" + delimited(rows, ",", "utf-16-be"),
    "UTF-32": lambda rows: delimited(rows, ",", "utf-32"),
    "bars": lambda rows: delimited(rows, "|", "utf-8"),
    "csv of pandas": lambda rows: frame(rows).to_csv().encode(),
    "all quoted": lambda rows: frame(rows).to_csv(index=False, quoting=csv.QUOTE_ALL, sep=";").encode(),
    "JSON Lines of pandas": lambda rows: frame(rows).to_json(orient="records", lines=True).encode(),
    "JSON Lines": lambda rows: "".join(f"{json.dumps(row, ensure_ascii=False)}\r\n" for row in objects(rows)).encode(),
    "a JSON list": lambda rows: json.dumps(objects(rows)).encode(),
    "an indented JSON list in UTF-16": lambda rows: json.dumps(objects(rows), indent=2).encode("utf-16"),
    "Parquet": parquet,
    "xlsx": lambda rows: workbook([HEADER, *rows]),
}

CAPTION = st.builds(lambda first, rest: first + rest, st.sampled_from("aé"), st.text("aé漢 ,;|\t\n\"'\\", max_size=12))


@st.composite
def logical_tables(draw: st.DrawFn) -> Logical:
    rows: Logical = []
    for number, name in enumerate(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))):
        split = draw(st.sampled_from(["train", "val", "test"]))
        start = draw(st.sampled_from([None, 0.5, 90.0]))
        end = draw(st.sampled_from([None, 100.25]))
        for caption in draw(st.lists(CAPTION, min_size=1, max_size=3)):
            rows.append([f"{name}.mp4", caption, split, f"id {number}", start, end])
    return draw(st.permutations(rows))


@settings(max_examples=20, deadline=None)
@given(table=logical_tables())
def test_one_table_in_every_form_is_one_data_set(folder: Path, table: Logical) -> None:
    unique = [list(row) for row in dict.fromkeys(map(tuple, table))]
    expected = [[row[3], row[1], row[2], row[4] if row[4] is not None else -1.0, row[5] if row[5] is not None else -1.0] for row in unique]
    for form, write in WRITERS.items():
        found = read(folder, write(table))
        assert rows_of(found) == expected, form
        assert dict(zip(found.videos["video_id"], found.videos["file"], strict=True)) == {
            row[3]: folder / "videos" / row[0] for row in unique
        }, form
        twice = [note for note in found.notes if "duplicate rows" in note]
        assert twice == ([f"table.csv: duplicate rows, which count once: {len(table) - len(unique)}"] if len(unique) < len(table) else [])


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("video;caption\na.mp4;x\n", "columns between semicolons"),
        ("video\tcaption\na.mp4\tx\n".encode("utf-16"), "in UTF-16; columns between tabs"),
        ("video,caption\na.mp4,un café, ".rstrip(", ").encode("cp1252"), "in Windows-1252, such as café in line 2"),
        ('{"video": "a.mp4", "caption": "x"}', "JSON Lines"),
        ('[{"video": "a.mp4", "caption": "x"}]', "a JSON list"),
        ("File Name,SENTENCE\na.mp4,x\n", "video from 'File Name', caption from 'SENTENCE'"),
        ("video,caption,notes\na.mp4,x,y\n", "not read: 'notes'"),
        ("My videos,\n,\nvideo,caption\na.mp4,x\n", "left out above the header: 1 line"),
        ('video,caption\na.mp4, "x, y"\n', "spaces before quotes are left out"),
        ('video,caption\na.mp4,"say \\"x\\", y"\n', "quotes after backslashes are read as quotes"),
        ("video, caption\na.mp4, x\n", "spaces beside separators are left out"),
        (" video | caption\n-------+--------\n a.mp4 | x\n", "columns between vertical bars; spaces beside separators are left out"),
        (
            "video,caption,start_ms,end_ms\na.mp4,x,0,900\n",
            "whole files are used, because no column is named start or end and 'start",
        ),
        (
            "video,caption,endFrame\na.mp4,x,30\n",
            "whole files are used, because no column is named start or end and 'endFrame' is not read",
        ),
        ("video,caption,start,duration\na.mp4,x,1,2\n", "segments last to the end of their files, because no column is named end and"),
        ("video,caption\na.mp4,NaN\nb.mp4,NaN\nc.mp4,nano\n", "captions that may be missing values: 'NaN' (2)"),
        ("| video | caption |\n|---|:--|\n| a.mp4 | x |\n", "columns between vertical bars; spaces beside separators are left out"),
        ('video\tcaption\na.mp4\t"x" he said\n', "columns between tabs; quotes are read literally"),
    ],
)
def test_what_was_understood_is_said(folder: Path, content: str | bytes, note: str) -> None:
    said = read(folder, content).notes
    assert len(said) == 2
    assert rows_of(read(folder, content))[0][0] == "a.mp4"
    assert said[0].startswith(f"table.csv: {note}")
    assert said[1].startswith("table.csv has no column split")


def test_the_documented_table_needs_no_word(folder: Path) -> None:
    for content in (
        "video,caption,split\na.mp4,x,test\n",
        "Video,Caption,Split\r\na.mp4,x,test\r\n\r\n,,\r\n",
        parquet([["a.mp4", "x", "test", "i", 0, 1]]),
    ):
        assert read(folder, content).notes == ()


@pytest.mark.parametrize(
    "caption", ["video", "path", "file", "filename", "file_name", "Video File", "video-path", "VIDEO_PATH", "Clip", "id", "video_id"]
)
def test_names_of_the_column_of_videos(folder: Path, caption: str) -> None:
    for text in ("caption", "Text", "sentence", "Description"):
        assert rows_of(read(folder, f"{caption},{text},Start Time,end_s\na.mp4,x,1:30,100\n")) == [["a.mp4", "x", "search", 90.0, 100.0]]


def test_a_documented_name_counts_before_others(folder: Path) -> None:
    found = read(folder, "id,path,text,caption,video,split\n7,no.mp4,other,x,a.mp4,test\n8,no.mp4,other,y,a.mp4,test\n")
    assert rows_of(found) == [["a.mp4", "x", "test", -1.0, -1.0], ["a.mp4", "y", "test", -1.0, -1.0]]
    assert found.notes == ("table.csv: not read: 'id', 'path', 'text'",)


def test_ids_alone_name_the_files_as_in_the_field(folder: Path) -> None:
    (folder / "videos" / "deep").mkdir(exist_ok=True)
    (folder / "videos" / "deep" / "YouTube_7.webm").touch()
    found = read(folder, "video_id,caption,split\nYouTube_7,x,test\na,y,test\n")
    assert found.videos["file"].tolist() == [folder / "videos" / "deep" / "YouTube_7.webm", folder / "videos" / "a.mp4"]
    assert found.notes == ("table.csv: files from 'video_id'",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("video,text,description\na.mp4,x,y\n", "the caption could be in columns 'text', 'description': name the right one caption"),
        ("path,filename,caption\na.mp4,a.mp4,y\n", "the video could be in columns 'path', 'filename': name the right one video"),
        ("video,caption,Caption\na.mp4,x,y\n", "the caption could be in columns 'caption', 'Caption'"),
        ('video,caption,start\na.mp4,x,"1,5"\n', "line 2: start is '1,5', has a decimal comma: write 1.5"),
        ("video;caption;end\na.mp4;x;0:01:02,5\n", "line 2: end is '0:01:02,5', has a decimal comma: write 0:01:02.5"),
        (
            "video,caption\na.mp4,a dog, running\n",
            "line 2: 3 fields where the header has 2: put a caption that holds the separator into quotes",
        ),
        ("a.mp4,a dog,train\nb.mp4,a cat,train\n", "line 1: 'a.mp4, a dog, train' names a video and no columns"),
        ("video\na.mp4\n", "has no column caption; it has 'video'"),
        ("video,caption\nhttps://there/a.mp4,x\n", "line 2: video 'https://there/a.mp4' is an address"),
        ("video,caption,split\na.mp4,x,\na.mp4,x,test\n", "line 2: split is '', not one of train, val, test"),
        ("video,caption\na.mp4,x\n,y\n", "line 3: the video name is blank"),
        (
            "video_id,start,caption\na,0,x\na,1,y\n",
            "line 3: video_id 'a' stands for several files or segments: name the files in a column video",
        ),
        ('{"video": {"0": "a.mp4"}, "caption": {"0": "x"}}', "is one JSON object with 'video, caption'"),
        ("[]", "has no rows"),
        ('[["video", "caption"]]', "line 1: a list is not an object"),
        ('video,caption\na.mp4,"x\ny"\nb.mp4,"z\n', "line 4: cannot be read as CSV: unexpected end of data"),
        ("video,caption\na.mp4,привет\n".encode("cp1251"), "line 2: byte 0xef is not UTF-8, nor is the file in Windows-1252"),
        ('{"annotations": [{"video": "a.mp4"}]}', "is one JSON object with 'annotations'"),
        ('{"video": "a.mp4", "caption": "x"}\n{"video": "a.mp4", "caption": ["x"]}', "line 2: caption holds a list, not text"),
        ('{"video": "a.mp4", "caption": "x"}\n{"video": "b.mp4", "caption": "x"', "line 2: cannot be read as JSON"),
        ('[{"video": "a.mp4",\n"caption": "x"}\n{"video": "b.mp4", "caption": "x"}]', "line 3: cannot be read as JSON: a comma is missing"),
        ('[{"video": "a.mp4", "caption": "x"}', "cannot be read as JSON: the list does not end"),
        ("[1]\n", "has no column"),
        ('[{"video": "a.mp4", "caption": "x"}, 1]\n', "'1' is not an object"),
        ("<table><tr><td>video</td></tr></table>", "is a web page or XML"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old",
            "is an old Excel file (.xls), or one with a password: open it and save it as .xlsx or CSV",
        ),
        (b"\x1f\x8b\x08", "is compressed by gzip"),
        (b"PK\x03\x04 cut", "cannot be read as a workbook"),
        (b"PAR1 cut", "cannot be read as Parquet"),
        ("\n,,\n", "is empty"),
        ('video,caption,start\na.mp4,x,"1,000"\n', "start is '1,000', has a comma: write 1000, or 1.000 if the comma is a decimal comma"),
        ('video,caption,start\na.mp4,x,"1,000.5"\n', "start is '1,000.5', has a comma: write 1000.5"),
        (
            '{"video": "a.mp4", "caption": "x"}\n{"video": "b.mp4", "text": "y"}',
            "line 2: column 'caption' is empty and column 'text'",
        ),
        ("video,caption,start,begin\na.mp4,x,,5\n", "line 2: column 'start' is empty and column 'begin' is not"),
        (
            "video,caption\na.mp4,\"['a dog', 'a cat']\"\n",
            "line 2: caption holds a list or an object, \"['a dog', 'a cat']\"",
        ),
        ('video,caption\na.mp4,x\nb.mp4,"{""en"": ""a dog""}"\n', "line 3: caption holds a list or an object"),
        (
            "video,caption,notes\n1,a.mp4,x\n2,b.mp4,y\n",
            "line 2: column 'caption' holds names of video files, such as 'a.mp4': are columns shifted?",
        ),
        (
            'video,caption\na.mp4,"hello\nb.mp4,world"\nc.mp4,x\n',
            "line 2: a cell that begins with a quote, 'hello\\nb.mp4,world'",
        ),
        ("1\n00:00:00,500 --> 00:00:01,000\nhello, there\n", "has no column video, caption; it has '1'"),
        ('{"a.mp4": "x", "b.mp4": "y"}', "is one JSON object with 'a.mp4, b.mp4'"),
        ('{"video": "a.mp4", "caption": "x\ny"}', "line 1: cannot be read as JSON: Invalid control character"),
        ("INSERT INTO `t` (`video`,`caption`) VALUES ('a.mp4','x');\n", "is SQL: save the table as CSV"),
        ("-- dump\nCREATE TABLE t (video text);\nINSERT INTO t VALUES ('a.mp4');\n", "is SQL: save the table as CSV"),
        (b"video,caption\ra.mp4,x\rb.mp4,\xd0\xd1\xd2\xd3\r", "line 3: byte 0xd0 is not UTF-8"),
        ('[{"video": "a.mp4", "caption": "x"},\r\r1]', "line 3: '1' is not an object"),
    ],
)
def test_what_cannot_be_told_is_refused_with_its_place(folder: Path, content: str | bytes, said: str) -> None:
    message = refusal(folder, content)
    assert message.startswith(str(folder / "table.csv"))
    assert said in message


def test_cells_with_lines_that_are_no_rows(folder: Path) -> None:
    found = read(folder, 'video,caption\na.mp4,"first, a dog.\nThen, as in b.mp4, a cat"\nb.mp4,[laughs] "a" [ends]\n')
    assert found.captions["caption"].tolist() == ["first, a dog.\nThen, as in b.mp4, a cat", '[laughs] "a" [ends]']


@pytest.mark.parametrize("form", ["0%", "0.0%"])
def test_numbers_of_a_workbook_are_as_they_are_shown(folder: Path, form: str) -> None:
    def padded(book: Any) -> None:
        book.worksheets[0]["A2"].number_format = "000"

    assert read(folder, workbook([["video_id", "caption"], [7, "x"]], padded), name="t.xlsx").captions["video_id"].tolist() == ["007"]

    def percent(book: Any) -> None:
        book.worksheets[0]["C2"].number_format = form

    message = refusal(folder, workbook([["video", "caption", "start"], ["a.mp4", "x", 0.5]], percent), name="t.xlsx")
    assert "row 2: start holds a percentage: format the column as text" in message


def test_names_that_would_steer_a_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "steer.csv"
    path.write_text('video,caption\n"b\n\x1b[31m.mp4",\n')
    assert check(CheckOptions(videos=folder / "videos", annotations=path)) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "[31m" in line] == [r"missing: b\n\x1b[31m.mp4", r"empty caption of: b\n\x1b[31m.mp4"]


def test_lines_are_those_of_the_file(folder: Path) -> None:
    for newline in ("\n", "\r\n", "\r"):
        text = newline.join(["", "video,caption,split", f'a.mp4,"two{newline}lines",train', "", ",,", "b.mp4,x,nowhere", ""])
        assert f"{folder / 'table.csv'}, line 7: split is 'nowhere'" in refusal(folder, text)
    assert "row 2: split is 'nowhere'" in refusal(
        folder, parquet([["a.mp4", "x", "test", "i", 0, 1], ["a.mp4", "x", "nowhere", "i", 0, 1]])
    )


def test_files_of_r(folder: Path) -> None:
    expected = [["a.mp4", "x", "test", -1.0, -1.0], ["b.mp4", "y", "test", -1.0, -1.0]]
    named = '"","video","caption","split"\n"1","a.mp4","x","test"\n"2","b.mp4","y","test"\n'
    assert rows_of(read(folder, named)) == expected
    found = read(folder, named.removeprefix('"",'))
    assert rows_of(found) == expected
    assert found.notes == ("table.csv: the rows' numbers, which have no name, are left out",)


def test_blank_rows_and_separators_at_the_end(folder: Path) -> None:
    found = read(folder, "video,caption,split,,\na.mp4,x,test,,\n,,,,\n ,,\nb.mp4,,test,,\n,,,,\n,,,,\n")
    assert rows_of(found) == [["a.mp4", "x", "test", -1.0, -1.0], ["b.mp4", "", "test", -1.0, -1.0]]
    assert found.notes == ("table.csv: blank rows skipped: 2",)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train", ["train", "Train", "TRAIN", "training", " Train "]),
        ("val", ["val", "Valid", "validation", "dev", "DEV"]),
        ("test", ["test", "Test", "testing"]),
    ],
)
def test_words_for_splits(folder: Path, split: str, words: list[str]) -> None:
    for word in words:
        found = read(folder, f"video,caption,split\na.mp4,x,{word}\n")
        assert found.captions["split"].tolist() == [split]
        assert any(f"'{word}' counts as {split}" in note for note in found.notes) == (word != split)


@given(thousandths=st.integers(0, 10**8))
def test_times_in_every_form_are_the_same_seconds(thousandths: int) -> None:
    seconds = thousandths / 1000
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes_of_hour = divmod(minutes, 60)
    for text in (
        f"{seconds}",
        f" {seconds:.3f} ",
        f"{minutes}:{rest // 1000:02}.{rest % 1000:03}",
        f"{hours}:{minutes_of_hour:02}:{rest // 1000:02}.{rest % 1000:03}",
        f"{hours:02}:{minutes_of_hour}:{rest // 1000}.{rest % 1000:03}",
    ):
        assert seconds_of(text) == pytest.approx(seconds, rel=1e-15, abs=1e-12)


@pytest.mark.parametrize(
    "text", ["-1", "inf", "1e10", "1:60", "1:75:00", "1:2:3:4", "00:00:01:12", "1m30s", "one", "1_0", "٣", "1:", ":30", "9" * 50]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match="not a time: write seconds"):
        seconds_of(text)


def test_times_that_are_missing(folder: Path) -> None:
    """As R, pandas and SQL write them; in a caption the same letters are words."""
    table = "video,caption,start,end\n" + "".join(f"a.mp4,{word},{word},\n" for word in ["NA", "NaN", "NULL", "None", "\\N", " "])
    assert [row[1:] for row in rows_of(read(folder, table))] == [
        [word, "search", -1.0, -1.0] for word in ["NA", "NaN", "NULL", "None", "\\N", " "]
    ]


def test_a_workbook_as_people_make_it(folder: Path) -> None:
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
    found = read(folder, workbook(rows, change), name="table.xlsx")
    expected = [["a.mp4", "x", "train"], ["a.mp4", "17", "train"], ["b.mp4", "TRUE", "val"]]
    assert found.captions.to_numpy().tolist() == expected
    assert found.notes == (
        "table.xlsx: the sheet 'Clips' of 3; 1 hidden rows are read as well; 1 merged cells count for each of their rows; "
        "left out above the header: 1 row; 'Train' counts as train, 'dev' counts as val; not read: 'ID'",
        "table.xlsx: blank rows skipped: 1",
    )


def edited(content: bytes, old: bytes, new: bytes) -> bytes:
    """A workbook with something else in its sheets."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(changed, "w") as other:
        for name in archive.namelist():
            piece = archive.read(name)
            other.writestr(name, piece.replace(old, new) if "sheet1" in name else piece)
    return changed.getvalue()


def with_format(**formats: str) -> Callable[[Any], None]:
    def change(book: Any) -> None:
        for cell, number_format in formats.items():
            book.active[cell].number_format = number_format

    return change


def test_times_that_a_spreadsheet_made_of_what_was_typed(folder: Path) -> None:
    """1:30 is kept as one hour and a half and shown as 1:30."""
    table: list[list[Any]] = [["video", "caption", "start", "end"], ["a.mp4", "x", dt.time(1, 30), dt.time(1, 45)]]
    found = read(folder, workbook(table, with_format(C2="h:mm", D2="h:mm")))
    assert rows_of(found) == [["a.mp4", "x", "search", 90.0, 105.0]]
    assert found.notes[0] == "table.csv: times h:mm count as minutes and seconds"
    table = [["video", "caption", "start", "end"], ["a.mp4", "x", dt.time(0, 1, 30, 500_000), dt.timedelta(hours=1, seconds=3)]]
    found = read(folder, workbook(table, with_format(C2="hh:mm:ss.000", D2="[h]:mm:ss")))
    assert rows_of(found) == [["a.mp4", "x", "search", 90.5, 3603.0]]
    # 25:30 is more than a day, and is shown with seconds.
    table = [["video", "caption", "start", "end"], ["a.mp4", "x", dt.time(1, 30), dt.timedelta(hours=25, minutes=30)]]
    message = refusal(folder, workbook(table, with_format(C2="h:mm", D2="[h]:mm:ss")))
    assert "a time is 25:30:00 in row 2 and 1:30 in row 2, and a spreadsheet may have taken one for hours" in message


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (dt.date(2024, 5, 5), "caption holds a date, which Excel makes of what looks like one: format the column as text"),
        (dt.time(1, 30), "caption holds a time of day"),
        ("=B1", "caption holds a formula without its value: open the file in a spreadsheet and save it again"),
        ("#N/A", "caption holds the error #N/A"),
        (12345678901234567, "caption holds a number of more digits than Excel keeps"),
    ],
)
def test_cells_that_are_not_what_was_written(folder: Path, cell: Any, said: str) -> None:
    table: list[list[Any]] = [["video", "caption"], ["a.mp4", "x"], ["a.mp4", cell]]
    assert f"table.csv, row 3: {said}" in refusal(folder, workbook(table))
    # Where nobody reads them they are no matter.
    assert len(read(folder, workbook([["video", "caption", "other"], ["a.mp4", "x", cell]])).captions) == 1


def test_formulas_have_the_values_that_were_last_computed(folder: Path) -> None:
    content = workbook([["video", "caption"], ["a.mp4", "=CONCAT(1,2)"]])
    assert read(folder, edited(content, b"<v />", b"<v>12</v>")).captions["caption"].tolist() == ["12"]


def test_workbooks_that_are_not_read(folder: Path) -> None:
    def twice(book: Any) -> None:
        book.create_sheet("Old").append(["file", "text"])

    assert "the sheets 'Sheet', 'Old' could all be the table" in refusal(folder, workbook([["video", "caption"], ["a.mp4", "x"]], twice))
    for names, said in (
        ({"mimetype": "application/vnd.oasis.opendocument.spreadsheet"}, "a sheet of OpenDocument"),
        ({"table.csv": "x"}, "a ZIP archive"),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in names.items():
                archive.writestr(name, content)
        assert said in refusal(folder, file.getvalue())
    merged = edited(
        workbook([["video", "caption"]]), b"</sheetData>", b'</sheetData><mergeCells><mergeCell ref="A3:XFD1048576"/></mergeCells>'
    )
    assert "merges 17,179,836,416 cells: undo that" in refusal(folder, merged)
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + b"".join(
        f'<!ENTITY {new} "{f"&{old};" * 10}">'.encode() for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
    bombed = edited(edited(workbook([["video", "caption"]]), b"<worksheet", bomb + b"]><worksheet"), b">video<", b">&j;<")
    assert "cannot be read as a workbook" in refusal(folder, bombed)
    assert "is empty: no sheet holds anything" in refusal(folder, workbook([]))


def test_without_openpyxl_a_workbook_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "is a workbook, which openpyxl reads: pip install -r requirements-xlsx.txt, or save it as CSV" in refusal(
        folder, workbook([["video", "caption"], ["a.mp4", "x"]])
    )


def test_numbers_of_parquet_are_as_they_were_written(folder: Path) -> None:
    file = io.BytesIO()
    table = pd.DataFrame(
        {"video": ["a.mp4", "b.mp4"], "caption": ["x", "y"], "video_id": [7.0, 8.0], "end": [dt.timedelta(seconds=90), None]}
    )
    table.assign(more=pd.Series([[1], [2]]), raw=[b"\0", b"\xff"]).to_parquet(file)
    found = read(folder, file.getvalue())
    assert rows_of(found) == [["7", "x", "search", -1.0, 90.0], ["8", "y", "search", -1.0, -1.0]]
    assert found.notes[0] == "table.csv: not read: 'more', 'raw'"
    file = io.BytesIO()
    table.assign(caption=pd.Series([["x"], ["y"]])).to_parquet(file)
    assert "row 1: caption holds lists, structures or bytes, not text" in refusal(folder, file.getvalue())


def test_paths_that_lead_into_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "videos").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    for file in (tmp_path / "real" / "videos" / "a.mp4", tmp_path / "disk" / "b.mp4"):
        file.touch()
    (tmp_path / "real" / "videos" / "sub").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    names = [
        tmp_path / "real" / "videos" / "a.mp4",
        tmp_path / "link" / "videos" / "a.mp4",
        f"file://{tmp_path}/real/videos/%61.mp4",
        "./a.mp4",
        "videos/a.mp4",
        "videos\\a.mp4",
        tmp_path / "real" / "videos" / "sub" / "b.mp4",
        tmp_path / "link" / "videos" / "sub" / "b.mp4",
    ]
    for videos in (Path("videos"), tmp_path / "real" / "videos", tmp_path / "link" / "videos", Path("../link/videos")):
        path = Path("table.csv")
        path.write_text("video,caption,split\n" + "".join(f"{name},x,test\n" for name in names))
        found = read_dataset("table", find_preset("table", None, path), path, videos)
        assert found.videos["file"].tolist() == [videos / "a.mp4"] * 6 + [videos / "sub" / "b.mp4"] * 2
        assert "2 videos are found by their paths from the table" in found.notes[0]


def test_a_name_too_long_for_a_file_is_a_missing_file(folder: Path) -> None:
    assert read(folder, f"video,caption,split\n{'long ' * 100},x,test\n").videos["file"].tolist() == [None]


FILES = [f"v{number}.mp4" for number in range(300)]


@given(order=st.permutations(FILES[:40]), more=st.lists(st.sampled_from(FILES), max_size=40))
def test_a_file_stays_in_its_split(order: list[str], more: list[str]) -> None:
    shares = {"train": 80.0, "val": 10.0, "test": 10.0}
    whole = divide(FILES, shares)
    assert set(divide(order, shares).items()) == set(divide(FILES[:40], shares).items())
    assert divide([*FILES[:100], *more], shares).items() <= whole.items()


def test_shares_are_met_on_average_and_none_is_empty() -> None:
    made = list(divide([f"clip {number}" for number in range(10_000)], {"train": 8.0, "val": 1.0, "test": 1.0}).values())
    # Five standard deviations of a binomial distribution.
    assert abs(made.count("train") - 8000) < 5 * (10_000 * 0.8 * 0.2) ** 0.5
    assert abs(made.count("val") - 1000) < 5 * (10_000 * 0.1 * 0.9) ** 0.5
    for count in range(3, 40):
        small = divide(FILES[:count], {"train": 80.0, "val": 10.0, "test": 10.0})
        assert {*small.values()} == {"train", "val", "test"}
    assert {*divide(FILES, {"train": 80.0, "val": 20.0, "test": 0.0}).values()} == {"train", "val"}
    with pytest.raises(UserError, match="2 video files cannot be divided into train, val and test: add videos, or give a split"):
        divide(FILES[:2], {"train": 80.0, "val": 10.0, "test": 10.0})


def segments(names: Iterable[str], split: str = "") -> str:
    return "".join(f"{name}.mp4,of {name} {part},{name}{part},{10 * part},{split}\n" for name in names for part in range(2))


def test_segments_of_a_file_stay_together(folder: Path) -> None:
    header = "video,caption,video_id,start,split\n"
    found = read(folder, header + segments(NAMES), "60,20,20")
    pairs = {(file.name, split) for file, split in zip(found.videos["file"], found.videos["split"], strict=True)}
    assert len(pairs) == 8
    counts = Counter(split for _, split in pairs)
    assert found.notes == (
        f"--split-by-hash 60,20,20 divides 8 files into train {counts['train']}, val {counts['val']}, test {counts['test']}",
    )
    assert found.division == "60,20,20"
    by_path = read(folder, header + segments(NAMES).replace("a.mp4", f"{folder}/videos/a.mp4").replace("b.mp4", "./B.mp4"), "60,20,20")
    assert by_path.videos["split"].tolist() == found.videos["split"].tolist()


def test_validation_videos_are_taken_from_the_training_videos(folder: Path) -> None:
    table = "video,caption,video_id,start,split\n" + segments("abcdef", "train") + segments("gh", "test")
    found = read(folder, table, "80,20,50")
    assert found.notes[-1].startswith("--split-by-hash 80,20,50 divides 6 training files into train ")
    own = dict(zip(found.videos["video_id"], found.videos["split"], strict=True))
    assert {own[f"{name}{part}"] for name in "gh" for part in range(2)} == {"test"}
    made = divide([f"{name}.mp4" for name in "abcdef"], {"train": 80.0, "val": 20.0})
    assert {video_id[0]: split for video_id, split in own.items() if video_id[0] in "abcdef"} == {name[0]: s for name, s in made.items()}
    assert found.captions["split"].tolist() == [own[video_id] for video_id in found.captions["video_id"]]
    assert (
        read(folder, table).notes[-1].startswith("table.csv has no rows of val: --split-by-hash 80,10,10 takes some of the training videos")
    )


@pytest.mark.parametrize("shares", ["80,20", "80;10;10", "0,50,50", "100,0,0", "-1,1,1", "nan,1,1", "80,10,10,10", "a,b,c"])
def test_shares_that_are_none(shares: str) -> None:
    with pytest.raises(UserError, match=f"--split-by-hash {shares}: write the shares of train, val and test"):
        shares_of(shares)


def test_where_nothing_is_to_be_divided(folder: Path) -> None:
    whole = "video,caption,split\na.mp4,x,train\nb.mp4,x,val\nc.mp4,x,test\n"
    assert "has all of the splits already: leave it out" in refusal(folder, whole, "80,10,10")
    assert "has no rows of train" in refusal(folder, "video,caption,split\na.mp4,x,test\n", "80,10,10")
    assert "lacks val, whose share is 0" in refusal(folder, "video,caption,split\na.mp4,x,train\nb.mp4,x,test\n", "80,0,20")
    for dataset, annotations in (("msvd", folder), ("table", None)):
        with pytest.raises(UserError, match="--split-by-hash is for a table of your own"):
            read_dataset(dataset, find_preset(dataset, None, annotations), annotations, folder / "videos", shares_of("8,1,1"))


def test_from_a_table_without_splits_to_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Of these, two train at 50,25,25, and one of the two is tested at 1,1,9.
    names = ["0", "7", "i", "k"]
    for i, name in enumerate(names):
        numbered_video(tmp_path / "videos" / f"{name}.mp4", 5 + i, 5)
    table = tmp_path / "table.csv"
    table.write_text("path;sentence\n" + "".join(f"{name}.mp4;a number\n" for name in names))
    options = ExtractOptions(
        videos=tmp_path / "videos", annotations=table, cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", json=True
    )
    extract.main(options)
    assert "table.csv: columns between semicolons; video from 'path', caption from 'sentence'" in capsys.readouterr().err
    with pytest.raises(UserError, match="The table has no column split: run extract again with --split-by-hash 80,10,10"):
        load_split(FeatureCache(options.cache), "train", None, BUDGET)
    assert sorted(FeatureCache(options.cache).listings.gallery()) == [f"{name}.mp4" for name in names]

    made = {}
    for asked in ("50,25,25", None):
        extract.main(replace(options, split_by_hash=asked))
        out = capsys.readouterr()
        summary = json.loads(out.out)
        assert (summary["videos_extracted"], summary["texts_extracted"]) == (0, 0)
        assert f"--split-by-hash 50,25,25{', as before,' if asked is None else ''} divides 4 files into train " in out.err
        made[asked] = FeatureCache(options.cache).listings.videos("table")[["video_id", "split"]]
    pd.testing.assert_frame_equal(made["50,25,25"], made[None])
    assert {*load_split(FeatureCache(options.cache), "train", None, BUDGET).videos.ids} == {
        *made[None].loc[made[None]["split"] == "train", "video_id"]
    }
    assert check(CheckOptions(options.videos, table, split_by_hash="50,25,25")) == 0
    assert "--split-by-hash 50,25,25 divides 4 files into train" in capsys.readouterr().out
    # A table that has moved is the same one.
    (tmp_path / "moved").mkdir()
    table = table.rename(tmp_path / "moved" / "table.csv")
    options = replace(options, annotations=table)
    extract.main(options)
    assert "--split-by-hash 50,25,25, as before, divides 4 files" in capsys.readouterr().err
    # What a run was trained on stays known when the videos are divided anew.
    trained = tmp_path / "run"
    train_head.main(TrainOptions(cache=options.cache, out=trained, head="mean", epochs=1, device="cpu", quiet=True))
    seen = {*made[None].loc[made[None]["split"] == "train", "video_id"]}
    for asked in ("50,25,25", "25,25,50", "1,1,9"):
        extract.main(replace(options, split_by_hash=asked))
        now = FeatureCache(options.cache).listings.videos("table")
        again = len(seen & {*now.loc[now["split"] == "test", "video_id"]})
        capsys.readouterr()
        evaluate.main(EvaluateOptions(options.cache, str(trained), tmp_path / f"results {asked}", device="cpu", quiet=True, report=False))
        told = re.findall(r"(\d+) of the \d+ videos of test have the ids of videos that it was trained on", capsys.readouterr().out)
        assert told == ([str(again)] if again else [])
        assert json.loads((tmp_path / f"results {asked}" / "metrics.json").read_text())["trained_on"] == again
    assert again
    # A table that has its splits now needs no division.
    table.write_text(
        "path,sentence,split\n"
        + "".join(f"{name}.mp4,a number,{split}\n" for name, split in zip(names, ["train", "test"] * 2, strict=False))
    )
    extract.main(replace(options, name="other"))
    with pytest.raises(UserError, match=r"no split 'val'; it has: train, test: run extract again .* or train with --select-on test"):
        load_split(FeatureCache(options.cache), "val", None, BUDGET, source="other")


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


def outcome(folder: Path, content: bytes) -> None:
    """A data set that a cache can hold, or one line."""
    found, message = None, ""
    try:
        found = read(folder, content)
    except UserError as error:
        message = str(error)
    if found is None:
        assert not {*"\n\r"} & {*message}
        assert len(message) < 1000
        return
    found.captions.to_parquet(io.BytesIO())
    assert not found.videos["video_id"].duplicated().any()
    assert {*found.captions["video_id"]} == {*found.videos["video_id"]}
    assert not any("\n" in note for note in found.notes)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(min_size=1, max_size=60) | st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_any_bytes(folder: Path, content: bytes) -> None:
    outcome(folder, content)
    outcome(folder, b"video,caption,start\n" + content)


@pytest.mark.parametrize("form", WRITERS)
@settings(max_examples=60, deadline=None)
@given(
    spoiling=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=4)), min_size=1, max_size=3
    )
)
def test_spoiled_tables(folder: Path, form: str, spoiling: list[tuple[float, int, bytes]]) -> None:
    content = WRITERS[form](GOOD)
    if form == "xlsx":
        # Within the sheet; the archive finds what is spoiled in itself.
        whole = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(whole, "w") as new:
            for name in old.namelist():
                new.writestr(name, spoil(old.read(name), spoiling) if "sheet1" in name else old.read(name))
        outcome(folder, whole.getvalue())
    outcome(folder, spoil(content, spoiling))


def spoil(content: bytes, spoiling: list[tuple[float, int, bytes]]) -> bytes:
    for where, length, piece in spoiling:
        at = int(where * len(content))
        content = content[:at] + piece + content[at + length :]
    return content


CELLS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["a.mp4", "1:30", "train", "", " "])


@settings(max_examples=60, deadline=None)
@given(cells=st.lists(st.lists(CELLS, min_size=6, max_size=6), max_size=4), header=st.permutations(HEADER))
def test_any_cells(folder: Path, cells: list[list[Any]], header: list[str]) -> None:
    outcome(folder, "".join(f"{json.dumps(dict(zip(header, row, strict=True)))}\n" for row in [*GOOD[:1], *cells]).encode())
    file = io.StringIO()
    csv.writer(file).writerows([header, *cells])
    outcome(folder, file.getvalue().encode("utf-8", "surrogatepass"))


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
def test_any_cells_of_a_workbook(folder: Path, cells: list[list[Any]]) -> None:
    outcome(folder, workbook([HEADER, *cells]))
