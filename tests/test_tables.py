"""Tables as people have them: whatever form, encoding and column names, one Dataset, or one line that says what is wrong and where."""

import datetime as dt
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import UserError
from data.check import CheckOptions, check
from data.datasets import find_preset, read_dataset
from data.datasets.tables.times import seconds_of
from tests.table_files import NAMES, WRITERS, Logical, parquet, read, refusal, rows_of

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


@settings(max_examples=10, deadline=None)
@given(table=logical_tables())
def test_one_table_in_every_form_is_one_data_set(table_folder: Path, table: Logical) -> None:
    unique = [list(row) for row in dict.fromkeys(map(tuple, table))]
    expected = [[row[3], row[1], row[2], row[4] if row[4] is not None else -1.0, row[5] if row[5] is not None else -1.0] for row in unique]
    for form, write in WRITERS.items():
        found = read(table_folder, write(table))
        assert rows_of(found) == expected, form
        assert dict(zip(found.videos["video_id"], found.videos["file"], strict=True)) == {
            row[3]: table_folder / "videos" / row[0] for row in unique
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
def test_what_was_understood_is_said(table_folder: Path, content: str | bytes, note: str) -> None:
    said = read(table_folder, content).notes
    assert len(said) == 2
    assert rows_of(read(table_folder, content))[0][0] == "a.mp4"
    assert said[0].startswith(f"table.csv: {note}")
    assert said[1].startswith("table.csv has no column split")


def test_the_documented_table_needs_no_word(table_folder: Path) -> None:
    for content in (
        "video,caption,split\na.mp4,x,test\n",
        "Video,Caption,Split\r\na.mp4,x,test\r\n\r\n,,\r\n",
        parquet([["a.mp4", "x", "test", "i", 0, 1]]),
    ):
        assert read(table_folder, content).notes == ()


@pytest.mark.parametrize(
    "caption", ["video", "path", "file", "filename", "file_name", "Video File", "video-path", "VIDEO_PATH", "Clip", "id", "video_id"]
)
def test_names_of_the_column_of_videos(table_folder: Path, caption: str) -> None:
    for text in ("caption", "Text", "sentence", "Description"):
        assert rows_of(read(table_folder, f"{caption},{text},Start Time,end_s\na.mp4,x,1:30,100\n")) == [
            ["a.mp4", "x", "search", 90.0, 100.0]
        ]


def test_a_documented_name_counts_before_others(table_folder: Path) -> None:
    found = read(table_folder, "id,path,text,caption,video,split\n7,no.mp4,other,x,a.mp4,test\n8,no.mp4,other,y,a.mp4,test\n")
    assert rows_of(found) == [["a.mp4", "x", "test", -1.0, -1.0], ["a.mp4", "y", "test", -1.0, -1.0]]
    assert found.notes == ("table.csv: not read: 'id', 'path', 'text'",)


def test_ids_alone_name_the_files_as_in_the_field(table_folder: Path) -> None:
    (table_folder / "videos" / "deep").mkdir(exist_ok=True)
    (table_folder / "videos" / "deep" / "YouTube_7.webm").touch()
    found = read(table_folder, "video_id,caption,split\nYouTube_7,x,test\na,y,test\n")
    assert found.videos["file"].tolist() == [table_folder / "videos" / "deep" / "YouTube_7.webm", table_folder / "videos" / "a.mp4"]
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
def test_what_cannot_be_told_is_refused_with_its_place(table_folder: Path, content: str | bytes, said: str) -> None:
    message = refusal(table_folder, content)
    assert message.startswith(str(table_folder / "table.csv"))
    assert said in message


def test_cells_with_lines_that_are_no_rows(table_folder: Path) -> None:
    found = read(table_folder, 'video,caption\na.mp4,"first, a dog.\nThen, as in b.mp4, a cat"\nb.mp4,[laughs] "a" [ends]\n')
    assert found.captions["caption"].tolist() == ["first, a dog.\nThen, as in b.mp4, a cat", '[laughs] "a" [ends]']


def test_names_that_would_steer_a_terminal(table_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table_folder / "steer.csv"
    path.write_text('video,caption\n"b\n\x1b[31m.mp4",\n')
    assert check(CheckOptions(videos=table_folder / "videos", annotations=path)) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "[31m" in line] == [r"missing: b\n\x1b[31m.mp4", r"empty caption of: b\n\x1b[31m.mp4"]


def test_lines_are_those_of_the_file(table_folder: Path) -> None:
    for newline in ("\n", "\r\n", "\r"):
        text = newline.join(["", "video,caption,split", f'a.mp4,"two{newline}lines",train', "", ",,", "b.mp4,x,nowhere", ""])
        assert f"{table_folder / 'table.csv'}, line 7: split is 'nowhere'" in refusal(table_folder, text)
    assert "row 2: split is 'nowhere'" in refusal(
        table_folder, parquet([["a.mp4", "x", "test", "i", 0, 1], ["a.mp4", "x", "nowhere", "i", 0, 1]])
    )


def test_files_of_r(table_folder: Path) -> None:
    expected = [["a.mp4", "x", "test", -1.0, -1.0], ["b.mp4", "y", "test", -1.0, -1.0]]
    named = '"","video","caption","split"\n"1","a.mp4","x","test"\n"2","b.mp4","y","test"\n'
    assert rows_of(read(table_folder, named)) == expected
    found = read(table_folder, named.removeprefix('"",'))
    assert rows_of(found) == expected
    assert found.notes == ("table.csv: the rows' numbers, which have no name, are left out",)


def test_blank_rows_and_separators_at_the_end(table_folder: Path) -> None:
    found = read(table_folder, "video,caption,split,,\na.mp4,x,test,,\n,,,,\n ,,\nb.mp4,,test,,\n,,,,\n,,,,\n")
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
def test_words_for_splits(table_folder: Path, split: str, words: list[str]) -> None:
    for word in words:
        found = read(table_folder, f"video,caption,split\na.mp4,x,{word}\n")
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


def test_times_that_are_missing(table_folder: Path) -> None:
    """As R, pandas and SQL write them; in a caption the same letters are words."""
    table = "video,caption,start,end\n" + "".join(f"a.mp4,{word},{word},\n" for word in ["NA", "NaN", "NULL", "None", "\\N", " "])
    assert [row[1:] for row in rows_of(read(table_folder, table))] == [
        [word, "search", -1.0, -1.0] for word in ["NA", "NaN", "NULL", "None", "\\N", " "]
    ]


def test_numbers_of_parquet_are_as_they_were_written(table_folder: Path) -> None:
    file = io.BytesIO()
    table = pd.DataFrame(
        {"video": ["a.mp4", "b.mp4"], "caption": ["x", "y"], "video_id": [7.0, 8.0], "end": [dt.timedelta(seconds=90), None]}
    )
    table.assign(more=pd.Series([[1], [2]]), raw=[b"\0", b"\xff"]).to_parquet(file)
    found = read(table_folder, file.getvalue())
    assert rows_of(found) == [["7", "x", "search", -1.0, 90.0], ["8", "y", "search", -1.0, -1.0]]
    assert found.notes[0] == "table.csv: not read: 'more', 'raw'"
    file = io.BytesIO()
    table.assign(caption=pd.Series([["x"], ["y"]])).to_parquet(file)
    assert "row 1: caption holds lists, structures or bytes, not text" in refusal(table_folder, file.getvalue())


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


def test_a_name_too_long_for_a_file_is_a_missing_file(table_folder: Path) -> None:
    assert read(table_folder, f"video,caption,split\n{'long ' * 100},x,test\n").videos["file"].tolist() == [None]
