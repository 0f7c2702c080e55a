"""The study: its groups of runs, sittings that go on, and one CSV of all worlds; and the set of MSR-VTT's size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from data.base.errors import UserError
from data.cache import FeatureCache
from experiments import fullsize, study
from experiments.fullsize import FullsizeOptions
from experiments.groups import GROUPS, chosen_groups, resolved, runs_of
from experiments.study import StudyOptions
from tests.study_rows import rows, written
from train_head import TrainOptions
from train_head.checks import check_options
from train_head.heads import HEADS
from train_head.sweep import Sweep, SweepOptions, expand
from train_head.sweep.runs import with_candidates


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> StudyOptions:
    return StudyOptions(
        cache=cache_path,
        out=tmp_path / "out",
        csv=tmp_path / "study.csv",
        seeds=1,
        only="same-video",
        device="cpu",
        processes=1,
        quiet=True,
    )


def test_groups_are_told_apart_and_cover_every_head() -> None:
    assert len({group.name for group in GROUPS}) == len({group.title for group in GROUPS}) == len(GROUPS)
    assert {setting.get("head", "glccl") for group in GROUPS for setting in group.settings.values()} == HEADS.keys()
    for group in GROUPS:
        assert group.base in group.settings
        options = [resolved(setting) for setting in group.settings.values()]
        assert len({repr(one) for one in options}) == len(options) > 1, group.name


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_a_group_is_what_sweeps_take(group: Any, tmp_path: Path) -> None:
    """Every setting, written as the options of a sweep, stands for the same runs."""
    shared = TrainOptions(tmp_path / "cache", tmp_path / "out", quiet=True)
    runs = list(runs_of(group, shared, seeds=2))
    assert [run.seed for run in runs] == [0, 1] * len(group.settings)
    for place, setting in enumerate(group.settings.values()):
        # What a sweep varies is text, and numbers of candidates are the same for all of its runs.
        given = {
            name: value if "candidates" in name or name == "hard_negatives" else "yes" if value is True else str(value)
            for name, value in setting.items()
        }
        swept = SweepOptions(cache=shared.cache, out=shared.out, seeds=2, **given)
        for run, by_sweep in zip(runs[2 * place :], with_candidates(swept, expand(swept)), strict=False):
            check_options(run)
            assert run == by_sweep


def test_no_minutes_say_what_is_missing(options: StudyOptions, capsys: pytest.CaptureFixture[str]) -> None:
    study.main(replace(options, only="frames, csc-weight", minutes=0, seeds=3))
    said = capsys.readouterr().err.splitlines()
    assert "0 of 27 runs are done" in said
    assert "missing, for a time that the first runs will tell: csc-weight 18, frames 9" in said
    assert "27 of 27 runs are missing: run the same command again to go on" in said
    assert [line for line in said if line.startswith("left out")] == ["left out: frames 12, where no video has more frames"]
    assert not any("experiments.ablations" in line for line in said)
    assert not options.csv.exists()
    assert options.out is not None
    assert not options.out.exists()


def test_heads_that_read_patch_tokens_are_left_out_without_them(options: StudyOptions, capsys: pytest.CaptureFixture[str]) -> None:
    study.main(replace(options, only="heads", minutes=0))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert line == "left out: heads tmvm, which reads patch tokens; heads ts2, which reads patch tokens"


def test_rows_of_a_world_are_gathered_beside_those_of_others(
    options: StudyOptions, cache: FeatureCache, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an earlier sitting trained, and how long the rest takes by it."""
    assert options.out is not None
    options.out.mkdir()
    trained = [{name: value for name, value in row.items() if name != "world"} for row in rows("demo", [430.0, 431.0])]
    own = {"cache_digest": cache.digest, "weights": cache.weights}
    written(options.out / "runs.csv", [{**row, **own} for row in trained])
    # An older row of the first run, and one of a run that this folder does not have.
    written(options.csv, rows("fullsize", [500.0, 501.0]), rows("demo", [429.0]), rows("demo", [1.0], head="mean"))
    study.main(replace(options, minutes=0, processes=2))
    table = pd.read_csv(options.csv)
    assert table[["world", "test RSum"]].to_numpy().tolist() == [
        ["demo", 1],
        ["demo", 430],
        ["demo", 431],
        ["fullsize", 500],
        ["fullsize", 501],
    ]
    # Two runs of 100 + 20 seconds, two at a time.
    assert "missing, about 2 min with 2 at a time: same-video 2" in capsys.readouterr().err


def test_rows_that_another_study_gathers_in_the_meantime_stay(
    options: StudyOptions, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(given: Sweep, *_: object) -> None:
        written(given.out / "runs.csv", rows("demo", [430.0], cache_digest=cache.digest, weights=cache.weights))
        written(options.csv, rows("fullsize", [500.0]))

    monkeypatch.setattr(study, "sweep", trained)
    assert pd.read_csv(study.main(options))["world"].tolist() == ["demo", "fullsize"]


def test_only_takes_groups_and_settings() -> None:
    chosen = chosen_groups("heads:xclip, csc-weight:0.5:0 ,start,start:clip,,csc-data,")
    assert [(group.name, list(group.settings)) for group in chosen] == [
        ("csc-weight", ["0", "0.5"]),
        ("heads", ["xclip"]),
        ("csc-data", ["both", "positive", "negative"]),
        ("start", ["clip", "random"]),
    ]
    assert chosen[0].settings["0.5"] == {"csc_weight": 0.5}
    assert chosen_groups(" ") == list(GROUPS)
    # --only can name every setting.
    for group in GROUPS:
        for label in group.settings:
            assert chosen_groups(f"{group.name}:{label}") == [replace(group, settings={label: group.settings[label]})]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"only": "heads,taus"}, r"--only taus is no group of the study: use some of csc-weight, heads, "),
        ({"only": "heads:glccl:clip"}, r"--only heads:clip is no setting of the group: use some of glccl, glim-global, "),
        ({"only": ", ,"}, "--only , , names no group: use some of csc-weight, heads, "),
        ({"only": ":0"}, "--only :0 is no group of the study: use some of csc-weight, heads, "),
        ({"csv": Path("tests")}, "--csv tests is a folder: name a file"),
        ({"csv": Path("/proc/study.csv")}, r"/proc/study\.csv cannot be written .* choose another --csv"),
        ({"seeds": 0}, "--seeds 0 must be at least 1"),
        ({"minutes": -1.0}, r"--minutes -1\.0 must be a number of at least 0"),
        ({"minutes": float("nan")}, "--minutes nan must be a number of at least 0"),
        ({"processes": 0}, "--processes 0 must be at least 1"),
        ({"cache": Path("nowhere")}, r"--cache nowhere is not there: pipelines/demo\.sh renders and extracts it"),
        ({"cache": Path("nowhere"), "world": "fullsize"}, "python -m experiments.fullsize renders and extracts it"),
    ],
)
def test_slips_are_found_before_the_work(options: StudyOptions, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        study.main(replace(options, **change))
    assert options.out is not None
    assert not options.out.exists()


@pytest.mark.parametrize("which", ["csv", "out"])
def test_a_damaged_csv_is_found_before_the_work(options: StudyOptions, which: str) -> None:
    assert options.out is not None
    options.out.mkdir()
    path = options.csv if which == "csv" else options.out / "runs.csv"
    path.write_text("world,run,head,seed\ndemo,a-run\n")
    with pytest.raises(UserError, match=r"is damaged .*: delete that row, and run python -m experiments\.study again"):
        study.main(options)
    assert path.read_text() == "world,run,head,seed\ndemo,a-run\n"
    assert not list(options.out.glob("glccl*"))


def test_runs_of_another_cache_are_refused(options: StudyOptions) -> None:
    assert options.out is not None
    options.out.mkdir()
    written(options.out / "runs.csv", rows("demo", [430.0], cache_digest="another"))
    with pytest.raises(UserError, match=r"--out .*out holds runs of another cache, .* name another --out"):
        study.main(options)
    (options.out / "runs.csv").rename(options.csv)
    with pytest.raises(UserError, match=r"--csv .*study\.csv holds runs of another cache, .* name another --csv"):
        study.main(options)


def test_the_table_of_the_runs_is_not_that_of_all_worlds(options: StudyOptions) -> None:
    assert options.out is not None
    with pytest.raises(UserError, match=r"--csv .*runs\.csv is the table of --out itself: name another file"):
        study.main(replace(options, csv=options.out / "runs.csv"))
    assert not options.out.exists()


@pytest.mark.long
def test_sittings_grow_one_csv_of_two_worlds(options: StudyOptions, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Two settings of the smallest group; a second seed in a second sitting; the runs that groups share are trained once."""
    options = replace(options, processes=None)
    first = pd.read_csv(study.main(options))
    assert first[["world", "mask_same_video", "seed"]].to_numpy().tolist() == [["demo", False, 0], ["demo", True, 0]]
    second = pd.read_csv(study.main(replace(options, seeds=2)))
    pd.testing.assert_frame_equal(second.head(2), first)
    assert sorted(second["seed"]) == [0, 0, 1, 1]
    capsys.readouterr()
    study.main(replace(options, seeds=2))
    assert "4 of 4 runs are done" in capsys.readouterr().err
    third = pd.read_csv(study.main(replace(options, only="same-video,start")))
    assert len(third) == 4 + 1
    both = pd.read_csv(study.main(replace(options, world="fullsize", out=tmp_path / "other")))
    assert both["world"].tolist() == ["demo"] * 5 + ["fullsize"] * 2
    # The same seeds and features: the same figures.
    assert both["test RSum"].tolist()[5:] == first["test RSum"].tolist()


def test_a_device_that_is_not_there_is_found_before_the_rendering(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("the device is there")
    with pytest.raises(UserError, match="--device cuda: this torch sees no CUDA device"):
        fullsize.main(FullsizeOptions(out=tmp_path / "set", device="cuda", quiet=True))
    assert not (tmp_path / "set").exists()


@pytest.mark.long
def test_one_command_renders_and_extracts_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = FullsizeOptions(out=tmp_path / "set", train=3, val=2, test=2, device="cpu", quiet=True)
    cache = FeatureCache(fullsize.main(options).cache)
    table = cache.listings.select().videos
    assert table["split"].value_counts().to_dict() == {"train": 3, "val": 2, "test": 2}
    assert json.loads((options.out / "recipe.json").read_text())["train"] == 3
    before = {path: path.stat().st_mtime_ns for path in (options.out / "videos").iterdir()}
    capsys.readouterr()
    (options.out / "videos" / "video0.mp4").unlink()
    assert fullsize.main(options).failed == 0
    said = capsys.readouterr()
    assert "7 videos (1 rendered now)" in said.out
    assert said.err.splitlines()[-1] == f"the study: python -m experiments.study --world fullsize --cache {cache.path}"
    assert {path: path.stat().st_mtime_ns for path in before if path.name != "video0.mp4"}.items() <= before.items()
    with pytest.raises(UserError, match="holds a demo set of other sizes"):
        fullsize.main(replace(options, test=3))
