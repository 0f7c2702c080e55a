"""Training in two real gloo processes against one."""

import json
import math
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import train_head
from data.base.errors import UserError
from data.compute.processes import ProcessGroup, has_own_device
from tests.processes import finish, launch, start
from train_head import TrainOptions


@pytest.mark.parametrize("seconds", [0.0, math.nan, math.inf])
def test_seconds_without_a_sign_of_life_are_a_number_for_one_process_too(seconds: float) -> None:
    """They are in the record of what it makes."""
    with pytest.raises(UserError, match=rf"--process-timeout {seconds:g}: at least "), ProcessGroup.joined(torch.device("cpu"), seconds):
        pass


@pytest.mark.parametrize(
    ("devices", "own"),
    [
        (["GPU-1", "GPU-2"], True),
        (["GPU-1", "GPU-1"], False),
        (["GPU-1", "GPU-2", "GPU-1"], False),
        (["GPU-1", ""], False),
        (["", ""], False),
    ],
)
def test_nccl_is_for_processes_with_a_device_each(devices: list[str], own: bool) -> None:
    assert has_own_device(devices) == own


@pytest.mark.long
def test_two_processes_of_32_give_the_loss_and_gradients_of_one_of_64(patches_cache_path: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.safetensors"
        done = launch(processes, "tests.gather_steps", patches_cache_path, out)
        assert done.returncode == 0, done.stderr
        found.append(load_file(out))
    one, two = found
    assert one.keys() == two.keys()
    for name, expected in one.items():
        share = (two[name] - expected).norm() / expected.norm().clamp(min=1e-3)
        assert share < (1e-5 if name.endswith("losses") else 1e-3), f"{name}: {share:.1e} is wrong"


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw", "bert-adam"])
def test_a_run_of_two_processes_is_that_of_one(cache_path: Path, tmp_path: Path, optimizer: Literal["adamw", "bert-adam"]) -> None:
    one = TrainOptions(cache=cache_path, out=tmp_path / "1", batch_size=32, epochs=1, lr=1e-3, temporal="none", device="cpu", quiet=True)
    one = replace(one, optimizer=optimizer)
    train_head.main(one)
    out = tmp_path / "2"
    options: list[str | Path | int] = ["--cache", cache_path, "--batch-size", 32, "--epochs", 1, "--lr", "1e-3", "--temporal", "none"]
    done = launch(2, "train_head", "--out", out, *options, "--optimizer", optimizer, "--device", "cpu", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    losses = [pd.read_csv(run / "log.csv")["loss"].iloc[1] for run in (one.out, out)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_batch_that_cannot_be_shared_is_refused(cache_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessGroup, "joined", lambda *_, **__: nullcontext(ProcessGroup(0, 2)))
    with pytest.raises(UserError, match="--batch-size 31 cannot be shared by 2 processes"):
        train_head.main(TrainOptions(cache=cache_path, out=tmp_path / "run", batch_size=31, device="cpu", quiet=True))


@pytest.mark.long
def test_a_process_that_is_lost_in_a_step_is_named(cache_path: Path, tmp_path: Path) -> None:
    command: list[str | Path] = ["tests.lost_process", "train_head", "--cache", cache_path, "--out", tmp_path / "run", "--batch-size", "32"]
    command += ["--temporal", "none", "--head", "mean", "--device", "cpu", "--quiet", "--process-timeout", "2"]
    first, second = finish(start([command] * 2, VICTIM="1"))
    assert second[0] == -signal.SIGKILL
    assert first[0] == 1
    assert first[2].startswith("error: process 1 of 2 ("), first[2]
    assert first[2].endswith("with --resume and the same number of processes\n")
    assert first[2].count("\n") == 1
    assert not (tmp_path / "run" / "run.json").exists()
