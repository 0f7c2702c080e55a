"""Splits by shares: files stay together, shares are met, and the splits are those that the later stages see."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

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
from data.datasets import find_preset, read_dataset, shares_of
from data.datasets.division import divide
from evaluate import EvaluateOptions
from extract import ExtractOptions
from tests.conftest import DEMO_CLIP
from tests.table_files import NAMES, read, refusal
from tests.videos import numbered_video
from train_head import TrainOptions
from train_head.scoring.splits import load_split

BUDGET = 10**9

FILES = [f"v{number}.mp4" for number in range(300)]


@settings(deadline=None)
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


def test_segments_of_a_file_stay_together(table_folder: Path) -> None:
    header = "video,caption,video_id,start,split\n"
    found = read(table_folder, header + segments(NAMES), "60,20,20")
    pairs = {(file.name, split) for file, split in zip(found.videos["file"], found.videos["split"], strict=True)}
    assert len(pairs) == 8
    counts = Counter(split for _, split in pairs)
    assert found.notes == (
        f"--split-by-hash 60,20,20 divides 8 files into train {counts['train']}, val {counts['val']}, test {counts['test']}",
    )
    assert found.division == "60,20,20"
    by_path = read(
        table_folder, header + segments(NAMES).replace("a.mp4", f"{table_folder}/videos/a.mp4").replace("b.mp4", "./B.mp4"), "60,20,20"
    )
    assert by_path.videos["split"].tolist() == found.videos["split"].tolist()


def test_validation_videos_are_taken_from_the_training_videos(table_folder: Path) -> None:
    table = "video,caption,video_id,start,split\n" + segments("abcdef", "train") + segments("gh", "test")
    found = read(table_folder, table, "80,20,50")
    assert found.notes[-1].startswith("--split-by-hash 80,20,50 divides 6 training files into train ")
    own = dict(zip(found.videos["video_id"], found.videos["split"], strict=True))
    assert {own[f"{name}{part}"] for name in "gh" for part in range(2)} == {"test"}
    made = divide([f"{name}.mp4" for name in "abcdef"], {"train": 80.0, "val": 20.0})
    assert {video_id[0]: split for video_id, split in own.items() if video_id[0] in "abcdef"} == {name[0]: s for name, s in made.items()}
    assert found.captions["split"].tolist() == [own[video_id] for video_id in found.captions["video_id"]]
    assert (
        read(table_folder, table)
        .notes[-1]
        .startswith("table.csv has no rows of val: --split-by-hash 80,10,10 takes some of the training videos")
    )


@pytest.mark.parametrize("shares", ["80,20", "80;10;10", "0,50,50", "100,0,0", "-1,1,1", "nan,1,1", "80,10,10,10", "a,b,c"])
def test_shares_that_are_none(shares: str) -> None:
    with pytest.raises(UserError, match=f"--split-by-hash {shares}: write the shares of train, val and test"):
        shares_of(shares)


def test_where_nothing_is_to_be_divided(table_folder: Path) -> None:
    whole = "video,caption,split\na.mp4,x,train\nb.mp4,x,val\nc.mp4,x,test\n"
    assert "has all of the splits already: leave it out" in refusal(table_folder, whole, "80,10,10")
    assert "has no rows of train" in refusal(table_folder, "video,caption,split\na.mp4,x,test\n", "80,10,10")
    assert "lacks val, whose share is 0" in refusal(table_folder, "video,caption,split\na.mp4,x,train\nb.mp4,x,test\n", "80,0,20")
    for dataset, annotations in (("msvd", table_folder), ("table", None)):
        with pytest.raises(UserError, match="--split-by-hash is for a table of your own"):
            read_dataset(dataset, find_preset(dataset, None, annotations), annotations, table_folder / "videos", shares_of("8,1,1"))


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
