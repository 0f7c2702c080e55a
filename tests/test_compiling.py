"""What is said before loops are compiled: a line where that happens, nothing where they are loaded from disk."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.terminal import on_a_terminal
from train_head.compiling import EACH_TIME, ONCE

TWO_LOOPS = """
import sys
from train_head.compiling import announce_compiling
from train_head.kernels.loops import compiled

@compiled
def one(x):
    x[0] += 1

@compiled
def other(x):
    one(x)

import numpy as np
with announce_compiling("quiet" in sys.argv):
    x = np.zeros(1, np.float32)
    one(x)
    other(x)
print(x[0])
"""


def run_loops(folder: Path, *arguments: str, **environment: str) -> str:
    """What stands on stderr after two loops have run."""
    script = folder / "two_loops.py"
    if not script.exists():
        script.write_text(TWO_LOOPS)
    command = [sys.executable, str(script), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables, timeout=120)
    assert done.stdout == "2.0\n"
    return done.stderr


@pytest.mark.long
def test_a_line_is_said_where_loops_are_compiled_and_none_where_they_are_on_disk(tmp_path: Path) -> None:
    kept = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert run_loops(tmp_path, "quiet", NUMBA_CACHE_DIR=str(tmp_path / "other")) == ""
    assert run_loops(tmp_path, **kept) == f"compiling the loops that score: 10 to 30 s, {ONCE}\n"
    assert run_loops(tmp_path, **kept) == ""


@pytest.mark.long
def test_loops_are_compiled_each_time_where_they_can_be_kept_nowhere(tmp_path: Path) -> None:
    """As in a container that can write neither the checkout nor a home folder, where numba refuses to compile for keeping."""
    (tmp_path / "file").touch()
    nowhere = {
        "NUMBA_CACHE_DIR": str(tmp_path / "file" / "folder"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "numba.core.caching.UserProvidedCacheLocator",
    }
    for _ in range(2):
        assert run_loops(tmp_path, **nowhere) == f"compiling the loops that score: 10 to 30 s, {EACH_TIME}\n"


@pytest.mark.long
def test_training_says_that_it_compiles_above_its_bars_and_once(cache_path: Path, tmp_path: Path) -> None:
    """On a terminal, with nothing compiled yet; a sweep compiles before its processes start, and for all of them."""
    environment: Mapping[str, str] = {"NUMBA_CACHE_DIR": str(tmp_path / "loops"), "OMP_NUM_THREADS": "1"}
    few = ["--cache", str(cache_path), "--epochs", "1", "--batch-size", "32", "--device", "cpu"]
    sweep = [sys.executable, "-m", "train_head.sweep", *few, "--out", str(tmp_path / "sweep"), "--seeds", "2", "--processes", "2"]
    status, _, shown = on_a_terminal(sweep, ROOT, environment)
    assert status == 0, shown
    assert [line for line in shown.splitlines() if "compiling" in line] == [f"compiling the loops that score: 10 to 30 s, {ONCE}"]
    assert {path.name.split("-")[0].split(".")[-1] for path in (tmp_path / "loops").rglob("*.nbi")} >= {"score_tile", "gradient_tile"}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "loops").rglob("*.nb?")}
    assert max(mtime for mtime in before.values()) < (tmp_path / "sweep" / "runs.csv").stat().st_mtime_ns
    train = [sys.executable, "-m", "train_head", *few, "--out", str(tmp_path / "run")]
    status, _, shown = on_a_terminal(train, ROOT, environment)
    assert status == 0, shown
    assert "compiling" not in shown
    assert "epoch 1/1: 100%" in shown
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "loops").rglob("*.nb?")} == before
