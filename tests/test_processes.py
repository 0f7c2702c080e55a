"""Training in two real gloo processes against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT


def launch(processes: int, *arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    """`torchrun -m ...` with so many processes, or plain Python for one."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return subprocess.run(
        [sys.executable, "-m", *(torchrun if processes > 1 else []), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
    )


@pytest.mark.parametrize(("head", "temporal"), [("glccl", "seq-transf"), ("wti", "none")])
def test_two_processes_give_the_loss_and_gradients_of_one(cache_path: Path, tmp_path: Path, head: str, temporal: str) -> None:
    found = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.safetensors"
        done = launch(processes, "tests.gather_steps", cache_path, out, head, temporal)
        assert done.returncode == 0, done.stderr
        found.append(load_file(out))
    one, two = found
    assert one.keys() == two.keys()
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=1e-6)
    for name, gradient in one.items():
        share = (two[name] - gradient).norm() / gradient.norm().clamp(min=1e-3)
        assert share < 1e-3, f"{name}: {share:.1e} of the gradient is wrong"


def test_a_run_of_two_processes_is_that_of_one(cache_path: Path, tmp_path: Path) -> None:
    options: list[str | Path | int] = [
        "--cache",
        cache_path,
        "--batch-size",
        32,
        "--epochs",
        1,
        "--lr",
        1e-3,
        "--temporal",
        "none",
        "--device",
        "cpu",
        "--quiet",
    ]
    logs = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        done = launch(processes, "train_head", "--out", out, *options)
        assert done.returncode == 0, done.stderr
        assert json.loads((out / "run.json").read_text())["processes"] == processes
        logs.append(pd.read_csv(out / "log.csv"))
    assert logs[1]["loss"].iloc[1] == pytest.approx(logs[0]["loss"].iloc[1], rel=1e-3)
    refused = launch(2, "train_head", "--out", tmp_path / "odd", *options, "--batch-size", 31)
    assert "--batch-size 31 cannot be shared by 2 processes" in refused.stderr
