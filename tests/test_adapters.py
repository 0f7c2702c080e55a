"""Every data set of the field: counts on the genuine files where they may be had, small files in the documented forms elsewhere."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from data.base.errors import UserError
from data.datasets import ADAPTERS, Dataset, find_preset, preset_named, read_dataset
from data.datasets.adapters.activitynet import read_paragraphs
from data.datasets.adapters.vatex import read_official
from data.datasets.files import read_csv, read_ids
from extract.encode.clip import load_clip
from tests.annotation_files import (
    COUNTS,
    WRITERS,
    didemo_name,
    lsmdc_id,
    numbers,
    read,
    vatex_id,
    write_activitynet,
    write_didemo,
    write_lsmdc,
    write_msrvtt,
    write_msvd,
    write_vatex,
)
from tests.conftest import DEMO_CLIP


def videos_by_split(dataset: Dataset) -> dict[str, int]:
    counts = dataset.captions.groupby("split")["video_id"].nunique().to_dict()
    assert dataset.videos.groupby("split").size().to_dict() == counts
    return {str(split): int(count) for split, count in counts.items()}


def captions_of(dataset: Dataset, video_id: str) -> list[str]:
    found: list[str] = dataset.captions.loc[dataset.captions["video_id"] == video_id, "caption"].tolist()
    return found


def file_of(dataset: Dataset, video_id: str) -> Path | None:
    found: Path | None = dataset.videos.loc[dataset.videos["video_id"] == video_id, "file"].iloc[0]
    return found


@pytest.mark.parametrize("dataset", WRITERS)
def test_every_data_set_from_small_files(tmp_path: Path, dataset: str) -> None:
    WRITERS[dataset](tmp_path)
    found = read(dataset, tmp_path)
    expected = dict(COUNTS)
    if find_preset(dataset, None, tmp_path).held_out:
        # Of 20 training videos a tenth is held out.
        expected |= {"train": 18, "val": 2}
    assert videos_by_split(found) == expected
    assert found.videos["file"].isna().all()
    assert found.videos.columns.tolist() == ["video_id", "split", "file", "start", "end"]


@pytest.mark.parametrize("form", ["ref_captions.json", "vatex_data.json", "official"])
def test_vatex_in_its_three_forms(tmp_path: Path, form: str) -> None:
    write_vatex(tmp_path, form)
    # The split of another project lies beside the lists of some distributions.
    (tmp_path / "test1k5_sec_list.txt").write_text(vatex_id(0))
    found = read("vatex", tmp_path)
    assert found.captions.groupby("split").size().to_dict() == {split: 10 * count for split, count in COUNTS.items()}
    assert captions_of(found, vatex_id(26)) == [f"caption {n}  of {vatex_id(26)}" for n in range(10)]


@pytest.mark.parametrize("form", ["captions_msvd.json", "raw-captions.pkl"])
def test_msvd_in_both_forms_keeps_repeats(tmp_path: Path, form: str) -> None:
    write_msvd(tmp_path, form)
    found = read("msvd", tmp_path)
    assert captions_of(found, "-4wsuPCjDB3_5_15") == ["a squirrel eats 0", "a squirrel eats 1", "a squirrel eats 1"]


class Runs:
    """Its pickle starts a command when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {Path.cwd() / 'ran'}",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_msvd(tmp_path, "raw-captions.pkl")
    content = pickle.dumps({"-4wsuPCjDB0_5_15": Runs()})
    (tmp_path / "raw-captions.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"raw-captions\.pkl cannot be read .*posix\.system"):
        read("msvd", tmp_path)
    assert not (tmp_path / "ran").exists()
    # What was refused would indeed have run.
    pickle.loads(content)
    assert (tmp_path / "ran").exists()


def test_didemo_paragraphs_follow_the_records_and_exact_names(tmp_path: Path) -> None:
    write_didemo(tmp_path)
    last = numbers()["test"][-1]
    found = read("didemo", tmp_path)
    assert captions_of(found, didemo_name(last)) == [f"part 0 of {last}\n part 1 of {last}\n"]
    assert [note for note in found.notes if "test_data.json" in note] == [
        "1 descriptions of test_data.json are left out: test_list.txt does not name their videos"
    ]
    merged = read("didemo", tmp_path, preset="didemo-stems")
    assert captions_of(merged, didemo_name(last)) == [f"part 0 of {last}\n part 1 of {last}\n other"]
    assert merged.notes == ()
    # The seconds 0 to 31, both whole: 32 frames at one a second.
    assert set(found.videos["end"]) == {32.0}
    assert found.videos["start"].isna().all()


def test_didemo_files_under_all_the_names_they_have(tmp_path: Path) -> None:
    write_didemo(tmp_path)
    videos = tmp_path / "videos"
    (videos / "sub").mkdir(parents=True)
    dotted = didemo_name(0)
    for name in (dotted, f"{didemo_name(1)}.mp4", didemo_name(2), didemo_name(3).replace(".mov", ".mp4"), f"sub/{didemo_name(4)}"):
        (videos / name).touch()
    # The exact name comes before the others, and what is no video does not count.
    (videos / f"{didemo_name(2)}.mp4").touch()
    (videos / didemo_name(5).replace(".mov", ".json")).touch()
    found = read("didemo", tmp_path, videos)
    names = [None if (path := file_of(found, didemo_name(i))) is None else path.name for i in range(6)]
    assert names == [dotted, f"{didemo_name(1)}.mp4", didemo_name(2), didemo_name(3).replace(".mov", ".mp4"), didemo_name(4), None]


@pytest.mark.parametrize(
    ("dataset", "video_id", "files"),
    [
        ("vatex", vatex_id(3), [f"sub/deep/{vatex_id(3)}.MKV", f"{vatex_id(3)}.webm"]),
        ("msvd", "-4wsuPCjDB3_5_15", ["-4wsuPCjDB3_5_15.avi"]),
        ("lsmdc", lsmdc_id(3), [f"1003_Juno/{lsmdc_id(3)}.avi"]),
        ("activitynet", "v_00000000003", ["v_00000000003.mp4", "00000000003.webm"]),
    ],
)
def test_where_files_lie(tmp_path: Path, dataset: str, video_id: str, files: list[str]) -> None:
    WRITERS[dataset](tmp_path)
    for name in files:
        videos = tmp_path / "videos"
        (videos / name).parent.mkdir(parents=True)
        (videos / name).touch()
        assert file_of(read(dataset, tmp_path, videos), video_id) == videos / name
        shutil.rmtree(videos)
    assert file_of(read(dataset, tmp_path), video_id) is None


def test_two_files_for_one_video_are_refused(tmp_path: Path) -> None:
    write_vatex(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{vatex_id(3)}.mp4").touch()
    with pytest.raises(UserError, match="could both be the same video"):
        read("vatex", tmp_path)


def test_a_link_to_nothing_is_no_file(tmp_path: Path) -> None:
    write_vatex(tmp_path)
    (tmp_path / f"{vatex_id(3)}.mp4").symlink_to(tmp_path / "gone")
    assert file_of(read("vatex", tmp_path), vatex_id(3)) is None


def test_lsmdc_has_a_clip_in_several_lines(tmp_path: Path) -> None:
    write_lsmdc(tmp_path)
    path = tmp_path / "LSMDC16_annos_training.csv"
    path.write_text(path.read_text() + f"{lsmdc_id(0)}\t0\t0\t0\t0\tAnother sentence.\r\n")
    found = read("lsmdc", tmp_path)
    assert captions_of(found, lsmdc_id(0)) == ['SOMEONE says "0", and goes.', "Another sentence."]
    assert videos_by_split(found)["train"] == 20


def test_activitynet_paragraphs_keep_their_spaces(tmp_path: Path) -> None:
    write_activitynet(tmp_path)
    found = read("activitynet", tmp_path)
    assert set(found.captions["caption"]) == {"A ring.   A star\n turns. "}
    # The seconds 0 to 56, both whole, of a video of 55.15 seconds.
    assert set(found.videos["end"]) == {57.0}


def test_a_folder_of_videos_without_captions(tmp_path: Path) -> None:
    for name in ("b.mp4", "sub/a.MOV", "notes.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    preset = find_preset("table", None, None)
    found = read_dataset("table", preset, None, tmp_path)
    assert found.videos["video_id"].tolist() == ["b.mp4", "sub/a.MOV"]
    assert found.videos["file"].tolist() == [tmp_path / "b.mp4", tmp_path / "sub" / "a.MOV"]
    assert found.captions.empty
    (tmp_path / "b.mp4").rename(tmp_path / "b.txt")
    (tmp_path / "sub" / "a.MOV").unlink()
    with pytest.raises(UserError, match=r"holds no video files; left alone: 2 \.txt, 1 hidden file"):
        read_dataset("table", preset, None, tmp_path)
    with pytest.raises(UserError, match="--annotations is missing"):
        find_preset("vatex", None, None)
    with pytest.raises(UserError, match="without captions: leave out --annotations"):
        find_preset("table", "folder", tmp_path)


# Figures of the design's [V], on the genuine files.


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("MSRVTT_train.9k.csv", 9000),
        ("MSRVTT_train.7k.csv", 7010),
        ("MSRVTT_JSFUSION_test.csv", 1000),
        ("MSRVTT_train.full.csv", 6513),
        ("MSRVTT_val.full.csv", 497),
        ("MSRVTT_test.full.csv", 2990),
    ],
)
def test_genuine_lists_of_msrvtt(shared_annotations: Path, name: str, count: int) -> None:
    assert read_csv(shared_annotations / "msrvtt" / name, ("video_id",))["video_id"].nunique() == count


def test_genuine_msrvtt_splits_lie_as_the_protocols_say(shared_annotations: Path) -> None:
    folder = shared_annotations / "msrvtt"
    part = {
        name: set(read_csv(folder / f"MSRVTT_{name}.csv", ("video_id",))["video_id"])
        for name in ("train.9k", "train.7k", "JSFUSION_test", "train.full", "val.full", "test.full")
    }
    assert part["train.7k"] == part["train.full"] | part["val.full"]
    assert part["train.7k"] < part["train.9k"]
    assert not part["JSFUSION_test"] & part["train.9k"]
    assert part["JSFUSION_test"] < part["test.full"]
    ranges = {name: sorted(int(video_id.removeprefix("video")) for video_id in part[name]) for name in part}
    assert ranges["train.full"] == list(range(6513))
    assert ranges["val.full"] == list(range(6513, 7010))
    assert ranges["test.full"] == list(range(7010, 10_000))
    assert (ranges["JSFUSION_test"][0], ranges["JSFUSION_test"][-1]) == (7020, 9975)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("msrvtt-9k", {"train": 8500, "val": 500, "test": 1000}),
        ("msrvtt-7k", {"train": 6510, "val": 500, "test": 1000}),
        ("msrvtt-full", {"train": 6513, "val": 497, "test": 2990}),
    ],
)
def test_msrvtt_on_the_genuine_lists(shared_annotations: Path, tmp_path: Path, preset: str, expected: dict[str, int]) -> None:
    """The sentences, which are not among the genuine files, are written in their form, two a video."""
    for path in (shared_annotations / "msrvtt").iterdir():
        shutil.copy(path, tmp_path)
    sentences = [{"video_id": f"video{i}", "caption": f"{n} of {i}"} for i in range(10_000) for n in range(2)]
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences}))
    found = read("msrvtt", tmp_path, preset=preset)
    assert videos_by_split(found) == expected
    assert {split: count.videos for split, count in find_preset("msrvtt", preset, tmp_path).expected.items()} == expected
    test = found.captions[found.captions["split"] == "test"]
    assert len(test) == (5980 if preset == "msrvtt-full" else 1000)
    if preset != "msrvtt-full":
        assert test.iloc[0].tolist() == ["video9770", "a person is connecting something to system", "test"]


def test_genuine_sentences_of_1k_a(shared_annotations: Path) -> None:
    sentences = read_csv(shared_annotations / "msrvtt" / "MSRVTT_JSFUSION_test.csv", ("video_id", "sentence"))["sentence"]
    assert sentences.nunique() == 995
    assert all(sentence.isascii() and sentence == sentence.lower() and not set(sentence) & set(',"') for sentence in sentences)
    assert sorted(sentences.value_counts()[lambda counts: counts > 1]) == [2, 2, 2, 3]


def test_didemo_on_the_genuine_files(shared_annotations: Path, tmp_path: Path) -> None:
    """The records of train are not among the genuine files: a record is written for each listed name."""
    for path in (shared_annotations / "didemo").iterdir():
        shutil.copy(path, tmp_path)
    train = read_ids(tmp_path / "train_list.txt")
    (tmp_path / "train_data.json").write_text(json.dumps([{"video": name, "description": "d"} for name in train]))
    assert {split: len(json.loads((tmp_path / f"{split}_data.json").read_text())) for split in ("val", "test")} == {
        "val": 4180,
        "test": 4021,
    }
    found = read("didemo", tmp_path)
    assert videos_by_split(found) == {"train": 8392, "val": 1065, "test": 1004}
    assert {split: count.videos for split, count in find_preset("didemo", None, tmp_path).expected.items()} == videos_by_split(found)
    assert len(found.captions) == 8392 + 1065 + 1004
    assert found.notes == (
        "71 descriptions of val_data.json are left out: val_list.txt does not name their videos",
        "89 descriptions of test_data.json are left out: test_list.txt does not name their videos",
    )
    ids = found.videos["video_id"]
    assert ids.str.rpartition(".")[0].nunique() == len(ids), "stems are unique"
    dots = ids[ids.str.endswith(".")].to_frame().assign(split=found.videos["split"]).groupby("split").size()
    assert dots.to_dict() == {"train": 154, "val": 12, "test": 27}
    assert {suffix: int(ids[: len(train)].str.endswith(suffix).sum()) for suffix in (".mov", ".avi", ".mp4")} == {
        ".mov": 3083,
        ".avi": 2522,
        ".mp4": 1279,
    }
    merged = read("didemo", tmp_path, preset="didemo-stems")
    assert merged.notes == ()
    longer = merged.captions["caption"].str.len() > found.captions["caption"].str.len()
    assert longer.groupby(merged.captions["split"]).sum().to_dict() == {"train": 0, "val": 29, "test": 33}


@pytest.mark.parametrize(("dataset", "expected"), [("vatex", (25_991, 1500, 1500)), ("msvd", (1200, 100, 670))])
def test_vatex_and_msvd_on_the_genuine_lists(
    shared_annotations: Path, tmp_path: Path, dataset: str, expected: tuple[int, int, int]
) -> None:
    """The captions, which are not among the genuine files, are written in their form, one a video."""
    for path in (shared_annotations / dataset).glob("*_list.txt"):
        shutil.copy(path, tmp_path)
    ids = [video_id for path in tmp_path.glob("*_list.txt") for video_id in read_ids(path)]
    name = {"vatex": "ref_captions.json", "msvd": "captions_msvd.json"}[dataset]
    (tmp_path / name).write_text(json.dumps({video_id: ["a ring"] for video_id in ids}))
    found = read(dataset, tmp_path)
    assert videos_by_split(found) == dict(zip(("train", "val", "test"), expected, strict=True))
    stated = find_preset(dataset, None, tmp_path).expected
    assert tuple(stated[split].videos for split in ("train", "val", "test")) == expected
    if dataset == "vatex":
        windows = [re.fullmatch(r"(?s).{11}_(\d{6})_(\d{6})", video_id) for video_id in ids]
        assert {int(window[2]) - int(window[1]) for window in windows if window} == {10}
        assert None not in windows


def test_the_genuine_records_of_vatex(shared_annotations: Path) -> None:
    captions = read_official(shared_annotations / "vatex" / "videocap5data.json")
    assert [len(own) for own in captions.values()] == [10] * 5
    # Double spaces are the authors' and stay.
    assert "A  guy is explaining the items you need to clean a pair of shoes." in captions["5-xGskbsBgI_000055_000065"]


def test_the_genuine_files_of_activitynet(shared_annotations: Path) -> None:
    folder = shared_annotations / "activitynet"
    counts = {}
    for name in ("val_1", "val_2"):
        content = json.loads((folder / f"{name}.json").read_text())
        counts[name] = (len(read_paragraphs(folder / f"{name}.json")), sum(len(record["sentences"]) for record in content.values()))
    assert counts == {"val_1": (4917, 17_505), "val_2": (4885, 17_031)}
    assert list(read_paragraphs(folder / "val_1.json")) == read_ids(folder / "val_1_list.txt")
    assert len(read_ids(folder / "train_list.txt")) == 10_009
    ids = {name: set(json.loads((folder / f"{name}_ids.json").read_text())) for name in ("train", "val")}
    assert {name: len(own) for name, own in ids.items()} == {"train": 10_024, "val": 4926}
    assert len(ids["train"] - set(read_ids(folder / "train_list.txt"))) == 15
    assert len(ids["val"] - read_paragraphs(folder / "val_1.json").keys()) == 9


def test_activitynet_on_the_genuine_files(shared_annotations: Path, tmp_path: Path) -> None:
    """train.json, which is not among the genuine files, is written from the list of its videos."""
    folder = shared_annotations / "activitynet"
    shutil.copy(folder / "val_1.json", tmp_path)
    train = {video_id: {"duration": 10.5, "sentences": [" a", "b "]} for video_id in read_ids(folder / "train_list.txt")}
    (tmp_path / "train.json").write_text(json.dumps(train))
    found = read("activitynet", tmp_path)
    assert videos_by_split(found) == {"train": 9509, "val": 500, "test": 4917}
    assert {split: count.videos for split, count in find_preset("activitynet", None, tmp_path).expected.items()} == videos_by_split(found)
    content = json.loads((tmp_path / "val_1.json").read_text())
    assert captions_of(found, "v_uqiMw7tQ1Cc") == [" ".join(content["v_uqiMw7tQ1Cc"]["sentences"])]


def test_how_many_genuine_captions_are_cut(shared_annotations: Path, tmp_path: Path) -> None:
    """Captions with more tokens than the recipe's words, start and end among them."""
    clip = load_clip(DEMO_CLIP, None, torch.device("cpu"))
    for path in (shared_annotations / "didemo").iterdir():
        shutil.copy(path, tmp_path)
    shutil.copy(tmp_path / "val_data.json", tmp_path / "train_data.json")
    shutil.copy(tmp_path / "val_list.txt", tmp_path / "train_list.txt")
    with pytest.raises(UserError, match="is in two splits"):
        read("didemo", tmp_path)
    (tmp_path / "train_data.json").write_text('[{"video": "a.mp4", "description": "b"}]')
    (tmp_path / "train_list.txt").write_text("a.mp4")
    didemo = read("didemo", tmp_path).captions
    sentences = read_csv(shared_annotations / "msrvtt" / "MSRVTT_JSFUSION_test.csv", ("sentence",))["sentence"]
    paragraphs = read_paragraphs(shared_annotations / "activitynet" / "val_1.json")
    texts = {
        "msrvtt-9k": sentences.tolist(),
        "didemo val": didemo.loc[didemo["split"] == "val", "caption"].tolist(),
        "didemo test": didemo.loc[didemo["split"] == "test", "caption"].tolist(),
        "activitynet": [paragraph for _, paragraph in paragraphs.values()],
    }
    cut = {}
    for name, own in texts.items():
        preset = preset_named(name.split()[0])
        assert preset is not None
        assert preset.max_words is not None
        cut[name] = sum(len(clip.tokenizer.encode(text)) > preset.max_words for text in own)
    assert cut == {"msrvtt-9k": 1, "didemo val": 10, "didemo test": 10, "activitynet": 1275}


def test_names_of_presets_are_unique() -> None:
    names = [preset.name for _, presets in ADAPTERS.values() for preset in presets]
    assert len(set(names)) == len(names)
    assert preset_named("msrvtt-7k") == find_preset("msrvtt", "msrvtt-7k", Path())
    assert preset_named("nope") is None


def test_ids_that_no_caption_speaks_of_are_listed(tmp_path: Path) -> None:
    write_msvd(tmp_path)
    content = json.loads((tmp_path / "captions_msvd.json").read_text())
    gone = ["-4wsuPCjDB23_5_15", "-4wsuPCjDB24_5_15"]
    content[gone[0]] = []
    del content[gone[1]]
    (tmp_path / "captions_msvd.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"captions_msvd\.json has no captions for 2 of the 4 videos of test_list\.txt") as refusal:
        read("msvd", tmp_path)
    assert refusal.value.listed == tuple(f"without captions: {video_id}" for video_id in gone)


def test_the_full_protocol_of_msrvtt_has_all_captions_of_a_video(tmp_path: Path) -> None:
    write_msrvtt(tmp_path)
    found = read("msrvtt", tmp_path, preset="msrvtt-full")
    assert videos_by_split(found) == COUNTS
    assert pd.Series(found.captions["split"]).value_counts().to_dict() == {split: 2 * count for split, count in COUNTS.items()}
