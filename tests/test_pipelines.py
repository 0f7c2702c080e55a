"""The shell pipelines: their recipes, and what they do where videos fail."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tyro

from data.datasets import ADAPTERS, find_preset
from evaluate import EvaluateOptions
from extract import ExtractOptions
from tests.conftest import DEMO_CLIP, ROOT
from train_head import TrainOptions

# Epochs and batch of the published recipes.
RECIPES = {
    "msrvtt": (5, 128),
    "didemo": (20, 64),
    "vatex": (5, 128),
    "msvd": (5, 300),
    "lsmdc": (5, 300),
    "activitynet": (20, 112),
    "table": (5, 128),
}


def pipeline(name: str, **environment: object) -> subprocess.CompletedProcess[str]:
    variables = {key: str(value) for key, value in environment.items()}
    return subprocess.run(
        ["bash", ROOT / "pipelines" / f"{name}.sh"], capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )


def test_every_data_set_has_a_pipeline() -> None:
    assert {path.stem for path in (ROOT / "pipelines").glob("*.sh")} == {*ADAPTERS, "recipe"}
    assert RECIPES.keys() == ADAPTERS.keys() - {"demo"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(tmp_path: Path, name: str) -> None:
    """Every command is written down instead of run; its options must be ones that the stage has."""
    log = tmp_path / "log"
    recorder = tmp_path / "python"
    recorder.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> "{log}"\n')
    recorder.chmod(0o755)
    done = pipeline(name, VIDEOS=tmp_path, ANNOTATIONS=tmp_path, PYTHON=recorder, OUT=tmp_path / "out", ALLOW_MISSING=1, SEEDS="0 1")
    assert done.returncode == 0, done.stderr
    commands = [line.split()[1:] for line in log.read_text().splitlines()]
    assert [command[0] for command in commands] == ["extract"] + ["evaluate"] * 2 + ["train_head", "evaluate"] * 4 + ["evaluate.compare"]
    extraction = tyro.cli(ExtractOptions, args=commands[0][1:])
    assert (extraction.dataset, extraction.allow_missing, extraction.pretrained) == (name, True, "openai")
    assert find_preset(name, extraction.preset, tmp_path) == ADAPTERS[name][1][0]
    training = [tyro.cli(TrainOptions, args=command[1:]) for command in commands if command[0] == "train_head"]
    assert {(options.epochs, options.batch_size) for options in training} == {RECIPES[name]}
    assert [(options.head, options.seed) for options in training] == [("mean", 0), ("mean", 1), ("glccl", 0), ("glccl", 1)]
    assert {(options.lr, options.csc_weight, options.select_on) for options in training} == {(1e-4, 0.5, "val")}
    evaluations = [tyro.cli(EvaluateOptions, args=command[1:]) for command in commands if command[0] == "evaluate"]
    assert all(options.split == "test" and options.preset == extraction.preset for options in evaluations)
    assert len({options.out for options in evaluations}) == len(evaluations) == 6


def test_broken_videos_stop_the_pipeline_unless_allowed(demo_set: Path, tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    splits = ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    for i in range(len(splits)):
        shutil.copy(demo_set / "videos" / f"video{i}.mp4", videos)
    (videos / "video6.mp4").write_text("no video")
    table = pd.DataFrame({"video": [f"video{i}.mp4" for i in range(len(splits))], "caption": "a ring", "split": splits})
    table.to_csv(tmp_path / "table.csv", index=False)
    environment = {"VIDEOS": videos, "ANNOTATIONS": tmp_path / "table.csv", "PYTHON": sys.executable, "OUT": out, "DEVICE": "cpu"}
    environment |= {"MODEL": DEMO_CLIP, "PRETRAINED": "", "HEADS": "mean", "EPOCHS": 1, "BATCH_SIZE": 2}
    stopped = pipeline("table", **environment)
    assert stopped.returncode == 3, stopped.stderr
    *_, listed, advice = stopped.stderr.splitlines()
    assert next(csv.reader([listed]))[0] == "video6.mp4"
    assert advice == "set ALLOW_MISSING=1 to go on without these videos"
    assert not (out / "results").exists()
    done = pipeline("table", **environment, ALLOW_MISSING=1)
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "results" / "table" / "summary.json").read_text())
    assert [(row["queries"], row["counts"]["videos_expected"], row["counts"]["videos_decoded"]) for row in rows] == [(1, 2, 1)] * 2
    first_of_table = done.stdout.splitlines()[-6]
    assert first_of_table == "table test: scored 1 of 2 videos expected (2 present, 1 decoded) and 1 of 2 captions"
