"""Annotation files as they should not be: one line that names file and place, or a data set that a cache can hold; never anything else."""

import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import UserError
from data.datasets import Dataset
from data.datasets.files import MAX_CAPTION, read_json
from tests.annotation_files import WRITERS, read, vatex_id, write_msvd, write_vatex
from tests.shell import stage


def write_table(folder: Path) -> None:
    rows = [f'sub/{n}.mp4,"caption, ""{n}""",{split},id{n},{n},{n + 2.5}' for n, split in enumerate(["train", "val", "test", "test"])]
    (folder / "table.csv").write_text("video,caption,split,video_id,start,end\n" + "\n".join(rows) + "\n")


ROWS = [
    {"video": f"sub/{n}.mp4", "caption": f"caption; {n}", "split": split, "video_id": f"id{n}", "start": n, "end": n + 2.5}
    for n, split in enumerate(["train", "val", "test", "test"])
]


def write_semicolons(folder: Path) -> None:
    pd.DataFrame(ROWS).to_csv(folder / "table.txt", sep=";", index=False)


def write_json_lines(folder: Path) -> None:
    (folder / "table.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))


def write_json_list(folder: Path) -> None:
    (folder / "table.json").write_text(json.dumps(ROWS, indent=1))


def write_parquet(folder: Path) -> None:
    pd.DataFrame({"video": ["a.mp4"], "caption": ["a ring"], "split": ["test"]}).to_parquet(folder / "table.parquet")


@dataclass(frozen=True)
class Form:
    """A data set in one of its forms, and what of it to damage: the file of captions, an id there, a piece of a caption."""

    dataset: str
    write: Callable[[Path], None]
    captions: str
    video_id: str
    caption: str

    def read(self, folder: Path) -> Dataset:
        return read(self.dataset, folder / self.captions if self.dataset == "table" else folder, folder)


FORMS = {
    "msrvtt": Form("msrvtt", WRITERS["msrvtt"], "MSRVTT_data.json", "video3", "0 of video3"),
    "msrvtt-test": Form("msrvtt", WRITERS["msrvtt"], "MSRVTT_JSFUSION_test.csv", "video24", "sentence of"),
    "didemo": Form("didemo", WRITERS["didemo"], "val_data.json", "10@N021_21_ab.mov", "part 0 of 21"),
    "vatex": Form("vatex", WRITERS["vatex"], "ref_captions.json", vatex_id(3), "caption 2"),
    "vatex-data": Form("vatex", partial(write_vatex, form="vatex_data.json"), "vatex_data.json", vatex_id(3), "caption 2"),
    "vatex-official": Form("vatex", partial(write_vatex, form="official"), "vatex_training_v1.0.json", vatex_id(3), "caption 2"),
    "msvd": Form("msvd", WRITERS["msvd"], "captions_msvd.json", "-4wsuPCjDB3_5_15", "squirrel"),
    "msvd-pickle": Form("msvd", partial(write_msvd, form="raw-captions.pkl"), "raw-captions.pkl", "-4wsuPCjDB3_5_15", "squirrel"),
    "lsmdc": Form("lsmdc", WRITERS["lsmdc"], "LSMDC16_annos_training.csv", "1003_Juno_00.00.03", "SOMEONE says"),
    "activitynet": Form("activitynet", WRITERS["activitynet"], "train.json", "v_00000000003", "A ring."),
    "table": Form("table", write_table, "table.csv", "id1", "caption"),
    "semicolons": Form("table", write_semicolons, "table.txt", "id1", "caption"),
    "json-lines": Form("table", write_json_lines, "table.jsonl", "id1", "caption; "),
    "json-list": Form("table", write_json_list, "table.json", "id1", "caption; "),
    "parquet": Form("table", write_parquet, "table.parquet", "a.mp4", "a ring"),
}
TEXTS = [name for name in FORMS if name not in ("msvd-pickle", "parquet")]


def refusal(form: Form, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        form.read(folder)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def change(path: Path, old: str, new: str | bytes) -> int:
    """Replace the first piece of a file; the line it is in."""
    content = path.read_bytes()
    at = content.index(old.encode())
    path.write_bytes(content[:at] + (new if isinstance(new, bytes) else new.encode()) + content[at + len(old) :])
    return content.count(b"\n", 0, at) + 1


@pytest.mark.parametrize("name", FORMS)
def test_a_cut_file(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    path = tmp_path / form.captions
    content = path.read_bytes()
    path.write_bytes(content[: content.index(form.video_id.encode()) + len(form.video_id) - 1])
    assert str(path) in refusal(form, tmp_path)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_of_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    (tmp_path / form.captions).write_bytes(content)
    assert str(tmp_path / form.captions) in refusal(form, tmp_path)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("bad", "said"), [(b"\0", "a zero byte"), ("café".encode("latin-1") + "é".encode() * 9, "byte 0xe9 is not UTF-8")])
def test_zero_bytes_and_mixed_encodings_are_found_by_line(tmp_path: Path, name: str, bad: bytes, said: str) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    line = change(tmp_path / form.captions, form.caption, bad)
    assert f"{tmp_path / form.captions}, line {line}: {said}" in refusal(form, tmp_path)


@pytest.mark.parametrize("name", TEXTS)
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    plain = form.read(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = form.read(tmp_path)
    pd.testing.assert_frame_equal(marked.captions, plain.captions)
    pd.testing.assert_frame_equal(marked.videos, plain.videos)


@pytest.mark.parametrize("name", TEXTS)
def test_a_caption_of_ten_megabytes(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    change(tmp_path / form.captions, form.caption, "long " * 2_000_000)
    message = refusal(form, tmp_path)
    assert str(tmp_path / form.captions) in message
    assert "caption of 10,000," in message or "field limit" in message


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "didemo" and FORMS[name].dataset != "table"])
def test_an_id_with_a_path_in_it(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    change(tmp_path / form.captions, form.video_id, "../../x")
    message = refusal(form, tmp_path)
    assert str(tmp_path / form.captions) in message
    assert "../../x" in message


@pytest.mark.parametrize("name", ["didemo", "vatex", "msvd"])
def test_ids_of_a_list(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    path = tmp_path / "val_list.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "../../x"]))
    assert refusal(form, tmp_path) == f"{path}, line 4: '../../x' is not a video id"
    path.write_text("\n".join([*lines, lines[1]]))
    assert f"{path}, line 4: '{lines[1]}' is listed twice, first in line 2" in refusal(form, tmp_path)


def test_a_table_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    write_table(tmp_path)
    change(tmp_path / "table.csv", "sub/1.mp4", "../../x.mp4")
    assert "video '../../x.mp4' lies outside" in refusal(FORMS["table"], tmp_path)


@pytest.mark.parametrize("name", ["vatex", "vatex-data", "msvd", "activitynet"])
def test_an_id_that_is_there_twice_as_a_key(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    first = next(iter(json.loads((tmp_path / form.captions).read_text())))
    change(tmp_path / form.captions, form.video_id, first)
    assert f"{tmp_path / form.captions} cannot be read as JSON: the key '{first}' appears twice" in refusal(form, tmp_path)


def test_an_id_that_is_there_twice_in_records(tmp_path: Path) -> None:
    form = FORMS["vatex-official"]
    form.write(tmp_path)
    change(tmp_path / form.captions, vatex_id(3), vatex_id(0))
    assert f"{form.captions}, record 4: {vatex_id(0)} has a record already" in refusal(form, tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("lsmdc", "00:01\tSOMEONE", "00:01 SOMEONE", "line 1: 5 fields between tabs instead of 6"),
        ("msrvtt-test", "key,vid_key,video_id,", "key,vid_key,video,", "has no column video_id"),
        ("msrvtt-test", "ret0,", "", "line 2: 3 fields where the header has 4: end the row with a separator for each empty cell"),
        ("msrvtt-test", "ret0,", "ret0,0,", "line 2: 5 fields where the header has 4: put a caption that holds the separator into quotes"),
        ("msrvtt", '"caption"', '"text"', "record 1 of 'sentences': it lacks"),
        ("didemo", '"description"', '"text"', "record 1: it lacks 'video' or 'description'"),
        ("didemo", '"part 0 of 20\\n"', "7", "record 1: the caption 7 is not text"),
        ("vatex", '"caption 0', '7, "caption 0', "caption 1: the caption 7 is not text"),
        ("vatex-data", '"enCap"', '"enCaps"', "it lacks 'enCap'"),
        ("vatex-official", '"videoID"', '"id"', "record 1: it lacks 'videoID'"),
        ("msvd", '["a squirrel', '{"a": "b"}, "c": ["a squirrel', "is not a list of captions"),
        ("activitynet", "55.15", "NaN", "the duration nan is not a number of seconds"),
        ("activitynet", '"sentences"', '"text"', "it lacks 'duration' or 'sentences'"),
        ("table", "video,caption", "video,words", "has no column caption"),
        ("table", "caption,split", "caption,caption", "the caption could be in columns 'caption', 'caption': name the right one"),
        ("table", '"caption, ""0"""', '"caption, ""0"" ', "cannot be read as CSV"),
    ],
)
def test_wrong_columns_and_fields(tmp_path: Path, name: str, old: str, new: str, said: str) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    change(tmp_path / form.captions, old, new)
    message = refusal(form, tmp_path)
    assert str(tmp_path / form.captions) in message
    assert said in message


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000"])
def test_characters_that_no_file_can_hold(tmp_path: Path, text: str) -> None:
    form = FORMS["msvd"]
    form.write(tmp_path)
    change(tmp_path / form.captions, form.caption, text)
    assert "holds a zero byte or half a character" in refusal(form, tmp_path)


def test_json_nested_without_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(UserError, match="nested too deeply"):
        read_json(path)


@pytest.mark.parametrize(
    "content", [pickle.dumps([1]), pickle.dumps({1: []}), pickle.dumps({"a": "text"}), pickle.dumps({"a": [[1]]}), b"\x80\x05h\x00."]
)
def test_pickles_of_something_else(tmp_path: Path, content: bytes) -> None:
    form = FORMS["msvd-pickle"]
    form.write(tmp_path)
    (tmp_path / form.captions).write_bytes(content)
    assert str(tmp_path / form.captions) in refusal(form, tmp_path)


def test_the_shell_sees_one_line_and_status_2(tmp_path: Path) -> None:
    FORMS["vatex"].write(tmp_path)
    path = tmp_path / "ref_captions.json"
    path.write_text(path.read_text()[:-20])
    done = stage("data.check", "--dataset", "vatex", "--videos", tmp_path, "--annotations", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path} cannot be read as JSON: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of good files for every form."""
    folders = {}
    for name, form in FORMS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        form.write(folders[name])
    return folders


PIECES = st.sampled_from(
    [b"\0", b"\xff", b"\xef\xbb\xbf", b"../../x", b'"', b"{", b"]", b"\n", b"\t", b",", b"\r", b"\\ud800", b"1e999", b"null"]
)
SPOILING = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), PIECES | st.binary(max_size=6)), min_size=1, max_size=3)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_spoiled_files(written: dict[str, Path], name: str, data: st.DataObject) -> None:
    """Bytes anywhere in any file cut out or put in."""
    form, folder = FORMS[name], written[name]
    path = folder / data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    good = path.read_bytes()
    content = good
    for where, length, piece in data.draw(SPOILING):
        at = int(where * len(content))
        content = content[:at] + piece + content[at + length :]
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    message, found = "", None
    try:
        found = form.read(folder)
    except UserError as error:
        message = str(error)
    finally:
        path.write_bytes(good)
    if found is None:
        assert "\n" not in message
        assert str(folder) in message
        assert len(message) < 1000
    else:
        found.captions.to_parquet(io.BytesIO())
        for caption in found.captions["caption"]:
            assert "\0" not in caption
            assert len(caption) <= MAX_CAPTION
        for video_id in found.videos["video_id"]:
            assert video_id.encode()
            assert form.dataset == "table" or "/" not in video_id


def test_files_are_not_left_spoiled(written: dict[str, Path], tmp_path: Path) -> None:
    """The fuzzing above works on copies that are whole again afterwards."""
    for name, form in FORMS.items():
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        form.write(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written[name].iterdir()}
        assert len(form.read(written[name]).captions) == len(form.read(tmp_path).captions)
