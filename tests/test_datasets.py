"""Adapters on genuine split files where they are here, and on small files in the documented forms."""

import json
from pathlib import Path

import pandas as pd
import pytest

from data.base.errors import UserError
from data.datasets import Dataset, find_preset, read_dataset


def msrvtt_json(ids: list[str], form: str = "sentences") -> str:
    if form == "sentences":
        return json.dumps(
            {"videos": [], "sentences": [{"video_id": i, "caption": f"of {i}, {n}", "sen_id": n} for i in ids for n in range(2)]}
        )
    return json.dumps({"annotations": [{"image_id": i, "caption": f"of {i}, {n}"} for i in ids for n in range(2)]})


def small_msrvtt(folder: Path, form: str = "sentences") -> None:
    train = [f"video{i}" for i in range(40)]
    (folder / "MSRVTT_data.json").write_text(msrvtt_json([*train, "video70"], form))
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\n" + "\n".join(train) + "\n")
    (folder / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\nret0,msr70,video70,a test sentence\n")


def read_msrvtt(folder: Path, preset: str | None = None) -> Dataset:
    return read_dataset("msrvtt", find_preset("msrvtt", preset, folder), folder, folder)


@pytest.mark.parametrize("form", ["sentences", "annotations"])
def test_msrvtt_in_both_json_forms(tmp_path: Path, form: str) -> None:
    small_msrvtt(tmp_path, form)
    (tmp_path / "video3.mp4").touch()
    (tmp_path / "video4.webm").touch()
    dataset = read_msrvtt(tmp_path)
    captions = dataset.captions.groupby("split")["video_id"]
    assert captions.nunique().to_dict() == {"train": 36, "val": 4, "test": 1}
    assert captions.size().to_dict() == {"train": 72, "val": 8, "test": 1}
    test = dataset.captions[dataset.captions["split"] == "test"]
    assert test["caption"].tolist() == ["a test sentence"]
    files = dict(zip(dataset.videos["video_id"], dataset.videos["file"], strict=True))
    assert files["video3"] == tmp_path / "video3.mp4"
    assert files["video4"] == tmp_path / "video4.webm"
    assert files["video5"] is None


def test_the_7k_validation_videos_do_not_depend_on_the_order(tmp_path: Path) -> None:
    small_msrvtt(tmp_path)
    held_out = set(read_msrvtt(tmp_path).captions.query("split == 'val'")["video_id"])
    rows = (tmp_path / "MSRVTT_train.9k.csv").read_text().split()
    (tmp_path / "MSRVTT_train.9k.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]))
    assert set(read_msrvtt(tmp_path).captions.query("split == 'val'")["video_id"]) == held_out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("MSRVTT_data.json", '{"sentences": [{"vid', "cannot be read as JSON"),
        ("MSRVTT_data.json", "[]", "neither 'sentences' nor 'annotations'"),
        ("MSRVTT_data.json", '{"sentences": [{"video_id": "video1"}]}', "lacks"),
        ("MSRVTT_data.json", '{"sentences": [{"video_id": "video1", "caption": 3}]}', "not text"),
        ("MSRVTT_data.json", '{"sentences": []}', "no captions for 40 of the 40 videos"),
        ("MSRVTT_train.9k.csv", "", "is empty"),
        ("MSRVTT_train.9k.csv", "id\nvideo1\n", "no column video_id"),
        ("MSRVTT_train.9k.csv", "video_id\nvideo1\nvideo1\n", "row 2: lists 'video1' twice"),
        ("MSRVTT_train.9k.csv", "video_id\nvideo1\nvideo70\n", "video70 is in two splits"),
        ("MSRVTT_JSFUSION_test.csv", "video_id,sentence\n../../x,a sentence\n", "not a video id"),
        ("MSRVTT_JSFUSION_test.csv", b"video_id,sentence\nvideo70,\xff\xfe\n", "line 2: byte 0xff is not UTF-8"),
    ],
)
def test_malformed_msrvtt_files_are_refused_by_name(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    small_msrvtt(tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as refusal:
        read_msrvtt(tmp_path)
    assert "\n" not in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


def test_missing_msrvtt_files_are_named(tmp_path: Path) -> None:
    small_msrvtt(tmp_path)
    (tmp_path / "MSRVTT_train.9k.csv").unlink()
    with pytest.raises(UserError, match=r"MSRVTT_train\.9k\.csv is missing"):
        read_msrvtt(tmp_path)
    (tmp_path / "MSRVTT_data.json").unlink()
    with pytest.raises(UserError, match=r"MSRVTT_data\.json"):
        read_msrvtt(tmp_path)


def read_table(folder: Path, path: Path) -> Dataset:
    return read_dataset("table", find_preset("table", None, path), path, folder)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_ones_own(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.mp4").touch()
    frame = pd.DataFrame(
        {
            "video": ["sub/a.mp4", "sub/a.mp4", "gone.mp4"],
            "caption": ["NA", 'a, "b"\nc', ""],
            "split": ["train", "train", "test"],
            "video_id": ["x", "x", "y"],
            "start": [1.5, 1.5, None],
            "end": [3, 3, None],
        }
    )
    path = tmp_path / f"table{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    dataset = read_table(tmp_path, path)
    assert dataset.captions["caption"].tolist() == ["NA", 'a, "b"\nc', ""]
    assert dataset.videos["video_id"].tolist() == ["x", "y"]
    assert dataset.videos["file"].tolist() == [tmp_path / "sub" / "a.mp4", None]
    assert dataset.videos["start"].tolist()[0] == 1.5
    assert dataset.videos["end"].isna().tolist() == [False, True]


HEADER = "video,caption,split,video_id,start,end\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video,split\na.mp4,train\n", "no column caption"),
        ("caption,split\na,train\n", "no column video"),
        (HEADER, "has no rows"),
        ("", "is empty"),
        (HEADER + "a.mp4,b,held,a,,\n", "line 2: split is 'held'"),
        (HEADER + '"a.mp4","b\nc",val,a,,\na.mp4,b,val,a,one,\n', "line 4: start is 'one', not a time"),
        (HEADER + "a.mp4,b,val,a,3,2\n", "line 2: segment 'a' ends before it starts"),
        (HEADER + "a.mp4,b,val,a,,\nb.mp4,b,val,a,,\n", "line 3: .* several files"),
        (HEADER + "a.mp4,b,val,a,,\na.mp4,c,test,a,,\n", "line 3: .* several splits, test here and val in line 2"),
        (HEADER + "../a.mp4,b,val,a,,\n", "line 2: .* outside"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        read_table(tmp_path, path)
    assert "\n" not in str(refusal.value)


def test_names_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dataset nope is unknown"):
        find_preset("nope", None, tmp_path)
    with pytest.raises(UserError, match=r"choose one of msrvtt-9k, msrvtt-7k"):
        find_preset("msrvtt", "1k-B", tmp_path)
    preset = find_preset("table", None, tmp_path)
    with pytest.raises(UserError, match="--videos"):
        read_dataset("table", preset, tmp_path, tmp_path / "no")
    with pytest.raises(UserError, match="--annotations"):
        read_dataset("table", preset, tmp_path / "no.csv", tmp_path)
    with pytest.raises(UserError, match="is a folder: name the file of the table"):
        read_table(tmp_path, tmp_path)
