"""Training with fewer videos than a batch has captions: what is taken, what is said, and what is refused."""

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.compute.processes import ProcessGroup
from tests.training_runs import logged, stop_at
from train_head import TrainOptions
from train_head.sweep import SweepOptions
from train_head.sweep import main as sweep
from train_head.training.trainer import fitting_batch


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> TrainOptions:
    """40 training videos with four captions each."""
    return TrainOptions(cache=cache_path, out=tmp_path / "run", head="mean", temporal="none", epochs=2, lr=1e-3, device="cpu", quiet=True)


def record(run: Path) -> dict[str, object]:
    return json.loads((run / "run.json").read_text())  # type: ignore[no-any-return]


@given(st.integers(2, 300), st.integers(1, 300), st.integers(1, 16))
def test_the_batch_is_the_largest_that_fits(asked: int, videos: int, processes: int) -> None:
    fitting = [batch for batch in range(0, min(asked, videos) + 1) if batch % processes == 0]
    assert fitting_batch(asked, videos, processes) == max(fitting)


@pytest.mark.parametrize("asked", [128, 41])
def test_a_batch_that_does_not_fit_gives_the_run_of_the_largest_that_does(
    options: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: int
) -> None:
    """The default and one that is asked for, with --quiet too."""
    fitting = train_head.main(replace(options, batch_size=40, out=tmp_path / "40"))
    assert not capsys.readouterr().err
    larger = train_head.main(replace(options, batch_size=asked, json=True))
    said = capsys.readouterr()
    assert said.err == (
        f"batches of 40 captions rather than the {asked} of --batch-size, because there are only 40 training videos: "
        "6 steps per epoch, 12 in all\n"
    )
    assert json.loads(said.out)["batch_size"] == 40
    assert (larger / "head.safetensors").read_bytes() == (fitting / "head.safetensors").read_bytes()
    pd.testing.assert_frame_equal(logged(larger), logged(fitting), check_exact=True)
    for run, given_batch in ((larger, asked), (fitting, 40)):
        made = record(run)
        assert (made["batch_size"], made["steps_an_epoch"]) == (40, 6)
        assert made["provenance"]["options"]["batch_size"] == given_batch  # type: ignore[index]


def test_a_run_with_such_a_batch_is_resumed_by_what_was_asked_for(options: TrainOptions, tmp_path: Path) -> None:
    whole = train_head.main(replace(options, out=tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(options)
    with pytest.raises(UserError, match="--batch-size was 128 and is 40"):
        train_head.main(replace(options, batch_size=40, resume=True))
    resumed = train_head.main(replace(options, resume=True))
    assert (resumed / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes()


def part_of(cache: FeatureCache, folder: Path, captions_a_video: Mapping[str, list[int]]) -> Path:
    """A cache whose splits have so many captions of so many videos."""
    shutil.copytree(cache.path, folder)
    table = cache.table()
    for listed in [*folder.glob("*.parquet*")]:
        listed.unlink()
    rows = []
    for split, counts in captions_a_video.items():
        of_split = table[table["split"] == split].groupby("video_id", sort=False)
        rows += [group.head(count) for (_, group), count in zip(of_split, counts, strict=False)]
    FeatureCache(folder).write_table("table", pd.concat(rows, ignore_index=True))
    return folder


@pytest.mark.parametrize("head", ["mean", "glccl"])
def test_two_videos_are_enough_and_what_is_left_out_is_said(
    options: TrainOptions, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str
) -> None:
    """Also where both captions of a batch are of one video, which is left out of the losses."""
    few = part_of(cache, tmp_path / "cache", {"train": [3, 2], "val": [1]})
    run = train_head.main(replace(options, cache=few, head=head, epochs=5, mask_same_video=True))
    assert capsys.readouterr().err.splitlines() == [
        "batches of 2 captions rather than the 128 of --batch-size, because there are only 2 training videos: 2 steps per epoch, "
        "10 in all; each epoch leaves out 1 of 5 captions at random",
        "note: split val has 1 video, so every epoch scores the same: the first is kept",
    ]
    assert record(run)["best_epoch"] == 1
    assert logged(run)["loss"].iloc[1:].notna().all()


def test_one_training_video_is_too_few(options: TrainOptions, cache: FeatureCache, tmp_path: Path) -> None:
    one = part_of(cache, tmp_path / "cache", {"train": [4], "val": [1, 1]})
    with pytest.raises(UserError, match="has 1 video with captions, and training needs at least 2: add videos"):
        train_head.main(replace(options, cache=one))
    assert not options.out.exists()


def test_processes_share_the_largest_multiple_that_fits(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessGroup, "joined", lambda *_, **__: nullcontext(ProcessGroup(0, 64)))
    with pytest.raises(UserError, match="64 processes cannot share batches of 40 training videos: start 40 or fewer"):
        train_head.main(options)


def test_a_sweep_takes_the_largest_batch_too_and_writes_down_both(
    cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = SweepOptions(cache_path, tmp_path / "sweep", seeds=1, head="mean", temporal="none", epochs="1", batch_size="20,128", processes=1)
    table = pd.read_csv(sweep(replace(few, device="cpu", quiet=True)))
    assert table[["batch_size", "batch_used"]].to_numpy().tolist() == [[20, 20], [128, 40]]
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"batches of 40 captions rather than the 128 .*: 6 steps per epoch, 6 in all", said[0])
    with pytest.raises(UserError, match="--batch-size 128 and 64 are more than the 40 training videos and would be the same"):
        sweep(replace(few, out=tmp_path / "other", batch_size="128,64", device="cpu", quiet=True))
