"""How much of a data set there is: said by data check, held by every stage, stated in every result."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import extract
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.check import CheckOptions, check
from data.datasets import ADAPTERS
from data.presets import PresetsOptions, print_presets
from evaluate import EvaluateOptions
from evaluate.compare import CompareOptions
from evaluate.compare import main as compare
from extract import ExtractOptions
from tests.annotation_files import didemo_name, numbers, read, write_didemo, write_vatex
from tests.caches import BUDGET
from tests.conftest import ROOT
from tests.shell import stage
from train_head import TrainOptions
from train_head.heads import HeadConfig, make_head
from train_head.run import save_run
from train_head.scoring.splits import load_split


def test_check_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_didemo(tmp_path)
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in numbers()["test"][1:]:
        (videos / didemo_name(i)).touch()
    (videos / "other.mov").touch()
    options = CheckOptions(dataset="didemo", videos=videos, annotations=tmp_path, json=True)
    assert check(options) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["test"] == {
        "videos_expected": 1004,
        "videos_listed": 4,
        "videos_present": 3,
        "captions_expected": 1004,
        "captions_listed": 4,
    }
    listed = [didemo_name(i) for own in numbers().values() for i in own]
    assert report["missing"] == [name for name in listed if name not in {didemo_name(i) for i in numbers()["test"][1:]}]
    assert (report["complete"], report["left_alone"], len(report["notes"])) == (False, {".mov": 1}, 3)
    assert check(replace(options, json=False)) == 3
    said = capsys.readouterr().out.splitlines()
    assert "test 3 of 1,004 videos and 4 of 1,004 captions" in said[0]
    assert f"missing: {didemo_name(0)}" in said


def test_check_from_the_shell(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "table.csv"
    table.write_text("video,caption,split\na.mp4,a ring,test\n")
    whole = stage("data.check", "--videos", tmp_path, "--annotations", table, "--json")
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["complete"]
    assert whole.stderr == ""
    table.write_text("video,caption,split\na.mp4,a ring\n")
    broken = stage("data.check", "--videos", tmp_path, "--annotations", table)
    assert broken.returncode == 2
    assert broken.stderr == f"error: {table}, line 2: 2 fields where the header has 3: end the row with a separator for each empty cell\n"


@pytest.mark.long
def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("video,caption,split\n" + "".join(f"{n}.mp4,a ring,test\n" for n in range(50_000)))
    check = f"{sys.executable} -m data.check --videos {tmp_path} --annotations {table}"
    command = f"{check} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout.startswith("table: test 0 of 50,000 videos")


def test_check_of_a_plain_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").touch()
    assert check(CheckOptions(videos=tmp_path)) == 0
    assert capsys.readouterr().out.startswith("folder: search 1 of 1 videos are there\n")


def test_presets_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    names = [preset.name for _, presets in ADAPTERS.values() for preset in presets]
    print_presets(PresetsOptions())
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines()[1:-1]] == names
    print_presets(PresetsOptions(dataset="didemo", json=True))
    exact, stems = json.loads(capsys.readouterr().out)
    assert (exact["name"], exact["max_words"], exact["max_frames"], exact["expected"]["test"]["videos"]) == ("didemo", 64, 64, 1004)
    assert (exact["by_stem"], stems["by_stem"]) == (False, True)
    assert (exact["epochs"], exact["batch_size"], exact["lr"]) == (20, 64, 1e-4)
    with pytest.raises(UserError, match="--dataset nope"):
        print_presets(PresetsOptions(dataset="nope"))


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("msrvtt-7k", "--epochs 5 --batch-size 128 --lr 0.0001"),
        ("didemo-stems", "--epochs 20 --batch-size 64 --lr 0.0001"),
        ("lsmdc", "--epochs 5 --batch-size 300 --lr 0.0001"),
        ("msvd", "--epochs 5 --batch-size 300 --lr 0.0001"),
        ("activitynet", "--epochs 20 --batch-size 112 --lr 0.0001"),
        ("demo", "--epochs 3 --batch-size 128 --lr 0.001"),
    ],
)
def test_a_recipe_is_printed_as_options_of_training(preset: str, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_presets(PresetsOptions(preset=preset, training=True))
    assert capsys.readouterr().out == f"{options}\n"


def test_a_recipe_is_that_of_one_preset() -> None:
    with pytest.raises(UserError, match="--training is for the recipe of one preset"):
        print_presets(PresetsOptions(dataset="didemo", training=True))
    with pytest.raises(UserError, match="--preset didemo is unknown"):
        print_presets(PresetsOptions(dataset="msrvtt", preset="didemo"))


def test_extraction_refuses_short_lists_and_missing_files_with_the_list(own_cache_options: ExtractOptions, tmp_path: Path) -> None:
    write_vatex(tmp_path)
    options = replace(own_cache_options, dataset="vatex", annotations=tmp_path)
    with pytest.raises(
        UserError, match=r"vatex lists 20 videos and 200 captions for split train, not 25,991 and 259,910: .*--allow-missing"
    ):
        extract.main(options)
    table = tmp_path / "table.csv"
    options = replace(options, dataset="table", annotations=table)
    table.write_text("video,caption,split\nvideo0.mp4,a red star,test\ngone.mp4,a ring,test\nlost.mp4,a ring,test\n")
    with pytest.raises(UserError, match="2 of 3 videos have no file") as refusal:
        extract.main(options)
    assert refusal.value.listed == ("missing: gone.mp4", "missing: lost.mp4")
    table.write_text("video,caption,split\ngone.mp4,a ring,test\n")
    with pytest.raises(UserError, match="none of the 1 videos has a file"):
        extract.main(options)
    assert not options.cache.exists()


def test_a_plain_folder_is_extracted_for_search(
    own_cache_options: ExtractOptions, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    (videos / "sub").mkdir(parents=True)
    shutil.copy(demo_set / "videos" / "video0.mp4", videos / "sub")
    options = replace(own_cache_options, dataset="table", videos=videos, annotations=None, json=True)
    cache = FeatureCache(extract.main(options))
    assert ("videos", "sub/video0.mp4") in cache
    listed = cache.listings.videos("videos")[["video_id", "split", "file"]]
    assert listed.to_dict("records") == [{"video_id": "sub/video0.mp4", "split": "search", "file": "sub/video0.mp4"}]
    assert json.loads(capsys.readouterr().out)["splits"]["search"]["videos_decoded"] == 1
    with pytest.raises(UserError, match="has no captions: extract with --annotations"):
        load_split(cache, "test", None, BUDGET)


@pytest.fixture(scope="module")
def part_of_1k_a(cache_path: Path, demo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has 40 training and 12 test videos under the names of msrvtt-9k."""
    folder = tmp_path_factory.mktemp("part")
    cache = shutil.copytree(cache_path, folder / "cache")
    FeatureCache(cache).listings.remove("demo")
    shutil.copy(demo_set / "annotations" / "MSRVTT_data.json", folder)
    shutil.copy(demo_set / "annotations" / "MSRVTT_train.full.csv", folder / "MSRVTT_train.9k.csv")
    sentences = pd.DataFrame(json.loads((folder / "MSRVTT_data.json").read_text())["sentences"]).drop_duplicates("video_id")
    test = pd.read_csv(demo_set / "annotations" / "MSRVTT_test.full.csv").merge(sentences, on="video_id")
    test.rename(columns={"caption": "sentence"}).to_csv(folder / "MSRVTT_JSFUSION_test.csv", index=False)
    found = read("msrvtt", folder, demo_set / "videos")
    FeatureCache(cache).write_table("msrvtt-9k", found.captions, found.videos.assign(file=found.videos["video_id"]))
    return cache


def test_a_part_of_a_split_is_refused_by_every_stage(part_of_1k_a: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = TrainOptions(cache=part_of_1k_a, out=tmp_path / "run", epochs=1, batch_size=32, device="cpu", quiet=True, json=True)
    with pytest.raises(UserError, match=r"lists 36 videos and 216 captions for split train, not 8,500 .*--allow-missing"):
        train_head.main(train)
    run = train_head.main(replace(train, allow_missing=True))
    said = json.loads(capsys.readouterr().out)
    assert (said["selected_on"], said["train_counts"]["videos_scored"], said["train_counts"]["videos_expected"]) == ("val", 36, 8500)
    options = EvaluateOptions(cache=part_of_1k_a, run=str(run), out=tmp_path / "out", device="cpu", report=False, quiet=True)
    with pytest.raises(UserError, match=r"msrvtt-9k lists 12 videos and 12 captions for split test, not 1,000 and 1,000"):
        evaluate.main(options)
    result = json.loads((evaluate.main(replace(options, allow_missing=True)) / "metrics.json").read_text())
    assert (result["counts"]["videos_expected"], result["counts"]["videos_scored"], result["train_videos"]) == (1000, 12, 36)
    assert result["protocol"].startswith("one caption per video")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "msrvtt-9k test: scored 12 of 1,000 videos expected (12 present, 12 decoded) and 12 of 1,000 captions"


def test_choosing_the_epoch_on_test_trains_on_all_and_is_labelled(
    part_of_1k_a: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = TrainOptions(
        cache=part_of_1k_a,
        out=tmp_path / "run",
        select_on="test",
        epochs=1,
        batch_size=32,
        device="cpu",
        quiet=True,
        allow_missing=True,
    )
    run = train_head.main(train)
    assert "trained on 40 videos; epoch 1 of 1 is best on test" in capsys.readouterr().out
    record = json.loads((run / "run.json").read_text())
    assert (record["selected_on"], record["selected_by"]) == ("test", "text_to_video R@1 on test")
    assert record["train_counts"]["videos_expected"] == 9000
    assert "val" not in record
    options = EvaluateOptions(
        cache=part_of_1k_a, run=str(run), out=tmp_path / "out", ties="reference", device="cpu", quiet=True, allow_missing=True
    )
    result = json.loads((evaluate.main(options) / "metrics.json").read_text())
    assert (result["selected_on"], result["train_videos"], result["ties"]) == ("test", 40, "reference")
    assert result["text_to_video"]["entries"] >= 12
    compare(CompareOptions((tmp_path / "out",)))
    said = capsys.readouterr().out.splitlines()
    assert f"{run}: trained on 40 videos; epoch chosen on test, as is common in the field: not a result on unseen data" in said
    assert said[-1].startswith(f"{run}: ties counted as in the field's code, ")


def test_a_split_of_its_own_is_not_joined_to_training(cache_path: Path, tmp_path: Path) -> None:
    train = TrainOptions(cache=cache_path, out=tmp_path / "run", select_on="test", epochs=1, batch_size=32, device="cpu", quiet=True)
    record = json.loads((train_head.main(train) / "run.json").read_text())
    assert record["train_counts"]["videos_scored"] == 40


def test_a_score_that_is_no_number_is_refused_with_its_pair(cache: FeatureCache, tmp_path: Path) -> None:
    head = make_head("mean", HeadConfig(cache.dimension, 40, 1.0))
    head.logit_scale.data.fill_(torch.nan)
    save_run(tmp_path, head, {"weights": cache.weights})
    with pytest.raises(UserError) as refusal:
        evaluate.main(EvaluateOptions(cache=cache.path, run=str(tmp_path), out=tmp_path / "out", device="cpu", report=False, quiet=True))
    # The first pair in the order of the blocks.
    split = load_split(cache, "test", None, BUDGET)
    assert f"caption {split.texts.texts[0]!r} and video {split.videos.ids[0]} is NaN" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_the_budget_is_shared_by_all_features_of_a_split(cache: FeatureCache) -> None:
    whole = load_split(cache, "train", None, BUDGET)
    held = [ragged.bytes_held for ragged in (whole.videos.frames, whole.texts.sentences, whole.texts.words)]
    assert min(held) > 0
    tight = load_split(cache, "train", None, sum(held) - 1)
    assert [tight.videos.frames.bytes_held, tight.texts.sentences.bytes_held, tight.texts.words.bytes_held] == [*held[:2], 0]
    for i in (0, 7, 159):
        np.testing.assert_array_equal(tight.texts.words.gather([i])[0], whole.texts.words.gather([i])[0])
