"""The shell pipelines: their recipes, and what they do where videos fail."""

import csv
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
from tests.choice import long_but
from tests.conftest import DEMO_CLIP, ROOT
from train_head import TrainOptions

PIPELINES = sorted(ADAPTERS.keys() - {"demo"})


def pipeline(name: str, **environment: object) -> subprocess.CompletedProcess[str]:
    variables = {key: str(value) for key, value in environment.items()}
    return subprocess.run(
        ["bash", ROOT / "pipelines" / f"{name}.sh"], capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )


def recorder(folder: Path, real: str = "none") -> tuple[Path, Path]:
    """A program in place of Python that runs `real` and `data.presets` and writes down all other commands, and where it does."""
    python, log = folder / "python", folder / "log"
    python.write_text(f'#!/bin/sh\ncase "$2" in {real}|data.presets) exec "{sys.executable}" "$@";; esac\nprintf "%s\\n" "$*" >> "{log}"\n')
    python.chmod(0o755)
    return python, log


def test_every_data_set_has_a_pipeline() -> None:
    assert {path.stem for path in (ROOT / "pipelines").glob("*.sh")} == {*ADAPTERS, "recipe", "python"}


@pytest.mark.parametrize("script", sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "pipelines").rglob("*.sh")))
def test_scripts_are_sound_shell_and_take_python_from_one_place(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--external-sources", "--shell=bash", "--severity=warning", ROOT / script], check=True)
    text = (ROOT / script).read_text()
    if script != "pipelines/python.sh":
        assert not [name for name in ("PYTHON:-", "python3", ".venv") if name in text]
        assert any(f'/{shared}"' in text for shared in ("python.sh", "recipe.sh", "slurm/common.sh"))


def checkout(folder: Path) -> Path:
    """The pipelines alone, in a checkout of their own, whose path has blanks."""
    shutil.copytree(ROOT / "pipelines", folder / "a checkout" / "pipelines")
    return folder / "a checkout"


def recording(path: Path) -> Path:
    """A Python at this path that writes down its commands beside itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$@" >> "$0.log"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("given", ["variable", "relative", "command", "activated", "checkout", "system"])
def test_which_python_runs_a_pipeline(tmp_path: Path, given: str) -> None:
    """PYTHON as a path, as one from the user's folder, and as a command; an activated environment; that of the checkout; else python3."""
    here, user = checkout(tmp_path), tmp_path / "of the user"
    places = {
        "variable": user / "an environment" / "python",
        "relative": user / "an environment" / "python",
        "command": user / "bin" / "my-python",
        "activated": user / "an environment" / "bin" / "python",
        "checkout": here / ".venv" / "bin" / "python",
        "system": user / "bin" / "python3",
    }
    python = recording(places[given])
    (user / "some videos").mkdir(parents=True)
    table = user / "a table.csv"
    table.touch()
    for name in ("own weights.pt", "own model"):
        (user / name).touch()
    variables = {"variable": str(python), "relative": "an environment/python", "command": "my-python"}
    environment = {
        "VIDEOS": "some videos",
        "ANNOTATIONS": "a table.csv",
        "OUT": "some runs",
        "HEADS": "mean",
        "PRETRAINED": "own weights.pt",
    }
    environment |= {"MODEL": "local-dir:own model", "PATH": f"{user / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"PYTHON": variables[given]} if given in variables else {}
    if given == "activated":
        environment["VIRTUAL_ENV"] = str(user / "an environment")
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "VIRTUAL_ENV")}
    # Through a link too.
    (user / "bin").mkdir(parents=True, exist_ok=True)
    (user / "bin" / "my pipeline").symlink_to(here / "pipelines" / "table.sh")
    command = ["bash", str(user / "bin" / "my pipeline" if given == "system" else here / "pipelines" / "table.sh")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=user, env={**inherited, **environment})
    assert done.returncode == 0, done.stderr
    words = Path(f"{python}.log").read_text().splitlines()
    assert words[0] == str(here)
    for option, value in (
        ("--videos", user / "some videos"),
        ("--annotations", table),
        ("--cache", user / "some runs" / "cache"),
        ("--pretrained", user / "own weights.pt"),
        ("--model", f"local-dir:{user / 'own model'}"),
    ):
        assert words[words.index(option) + 1] == str(value)


@pytest.mark.parametrize("script", ["demo.sh", "table.sh"])
def test_a_python_that_is_not_there_is_one_line(tmp_path: Path, script: str) -> None:
    environment = {**os.environ, "PYTHON": "no/python", "VIDEOS": str(tmp_path), "ANNOTATIONS": str(tmp_path)}
    done = subprocess.run(["bash", ROOT / "pipelines" / script], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: there is no Python at {tmp_path}/no/python: set PYTHON to one that has the requirements (requirements.txt)"
    ]


def test_the_demo_keeps_the_newest_run_whole_after_a_kill_in_its_copy(tmp_path: Path) -> None:
    """A copy of the checkout's scripts, with a Python that does nothing: the runs of a sweep are there already."""
    out, python = tmp_path / "runs" / "demo", tmp_path / "python"
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    for age, name in ((50, "glccl-seed0-zz"), (10, "glccl-seed0-aa"), (0, "mean-seed0-bb")):
        (out / "sweep" / name).mkdir(parents=True)
        for file in ("run.json", "head.safetensors"):
            (out / "sweep" / name / file).write_text(f"{file} of {name}")
            os.utime(out / "sweep" / name / file, (1e9 - age, 1e9 - age))

    def demo() -> dict[str, str]:
        script, environment = tmp_path / "pipelines" / "demo.sh", {**os.environ, "PYTHON": str(python)}
        done = subprocess.run(["bash", script], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return {file.name: file.read_text() for file in (out / "glccl").iterdir()}

    whole = {file: f"{file} of glccl-seed0-aa" for file in ("run.json", "head.safetensors")}
    assert demo() == whole
    # Cut short where the last file was to come, before and now.
    (out / "glccl" / "head.safetensors").unlink()
    (out / "glccl").rename(out / "glccl.part")
    assert demo() == whole
    # What users put beside the run stays, as long as the run is the newest.
    (out / "glccl" / "own").write_text("mine")
    assert demo() == {**whole, "own": "mine"}
    (out / "glccl" / "run.json").write_text("of older options")
    assert demo() == whole


@pytest.mark.parametrize("name", long_but(["didemo", "msrvtt"], PIPELINES))
def test_a_pipeline_trains_by_the_recipe_of_its_preset(tmp_path: Path, name: str) -> None:
    """Every command is written down instead of run; its options must be ones that the stage has."""
    python, log = recorder(tmp_path)
    done = pipeline(name, VIDEOS=tmp_path, ANNOTATIONS=tmp_path, PYTHON=python, OUT=tmp_path / "out", ALLOW_MISSING=1, SEEDS="0 1")
    assert done.returncode == 0, done.stderr
    commands = [line.split()[1:] for line in log.read_text().splitlines()]
    assert [command[0] for command in commands] == ["extract"] + ["evaluate"] * 2 + ["train_head", "evaluate"] * 4 + ["evaluate.compare"]
    extraction = tyro.cli(ExtractOptions, args=commands[0][1:])
    assert (extraction.dataset, extraction.allow_missing, extraction.pretrained) == (name, True, "openai")
    preset = find_preset(name, extraction.preset, tmp_path)
    assert preset == ADAPTERS[name][1][0]
    training = [tyro.cli(TrainOptions, args=command[1:]) for command in commands if command[0] == "train_head"]
    assert {(options.epochs, options.batch_size, options.lr) for options in training} == {(preset.epochs, preset.batch_size, preset.lr)}
    assert [(options.head, options.seed) for options in training] == [("mean", 0), ("mean", 1), ("glccl", 0), ("glccl", 1)]
    assert {(options.csc_weight, options.select_on) for options in training} == {(0.5, "val")}
    evaluations = [tyro.cli(EvaluateOptions, args=command[1:]) for command in commands if command[0] == "evaluate"]
    assert all(options.split == "test" and options.preset == extraction.preset for options in evaluations)
    assert len({options.out for options in evaluations}) == len(evaluations) == 6


def test_a_table_without_splits_is_divided_where_the_environment_says_so(tmp_path: Path) -> None:
    python, log = recorder(tmp_path)
    done = pipeline("table", VIDEOS=tmp_path, ANNOTATIONS=tmp_path, PYTHON=python, OUT=tmp_path / "out", SPLIT_BY_HASH="80,10,10")
    assert done.returncode == 0, done.stderr
    assert tyro.cli(ExtractOptions, args=log.read_text().splitlines()[0].split()[2:]).split_by_hash == "80,10,10"


def test_what_is_given_wins_over_the_recipe(tmp_path: Path) -> None:
    """EPOCHS and BATCH_SIZE of the user, the others of another preset of the data set."""
    python, log = recorder(tmp_path)
    given = {"PRESET": "didemo-stems", "EPOCHS": 2, "HEADS": "mean"}
    done = pipeline("didemo", VIDEOS=tmp_path, ANNOTATIONS=tmp_path, PYTHON=python, OUT=tmp_path / "out", **given)
    assert done.returncode == 0, done.stderr
    (command,) = [line.split()[2:] for line in log.read_text().splitlines() if line.split()[1] == "train_head"]
    options = tyro.cli(TrainOptions, args=command)
    assert (options.preset, options.epochs, options.batch_size, options.lr) == ("didemo-stems", 2, 64, 1e-4)
    log.unlink()
    refused = pipeline("didemo", VIDEOS=tmp_path, ANNOTATIONS=tmp_path, PYTHON=python, OUT=tmp_path / "out", PRESET="didemo-9k")
    assert (refused.returncode, log.exists()) == (2, False)
    assert refused.stderr.splitlines() == ["error: --preset didemo-9k is unknown: python -m data.presets lists them"]


@pytest.mark.long
def test_broken_videos_stop_the_pipeline_unless_allowed(demo_set: Path, tmp_path: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    splits = ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    for i in range(6):
        shutil.copy(demo_set / "videos" / f"video{i}.mp4", videos)
    (videos / "video6.mp4").write_text("no video")
    table = pd.DataFrame({"video": [f"video{i}.mp4" for i in range(len(splits))], "caption": "a ring", "split": splits})
    table.to_csv(tmp_path / "table.csv", index=False)
    python, log = recorder(tmp_path, real="extract")
    environment = {"VIDEOS": videos, "ANNOTATIONS": tmp_path / "table.csv", "PYTHON": python, "OUT": out, "DEVICE": "cpu"}
    environment |= {"MODEL": DEMO_CLIP, "PRETRAINED": ""}
    stopped = pipeline("table", **environment)
    assert stopped.returncode == 3, stopped.stderr
    *_, listed, advice = stopped.stderr.splitlines()
    assert next(csv.reader([listed]))[0] == "video6.mp4"
    assert advice == "set ALLOW_MISSING=1 to go on without these videos"
    assert not log.exists()
    done = pipeline("table", **environment, ALLOW_MISSING=1)
    assert done.returncode == 0, done.stderr
    assert "video6.mp4" in done.stderr
    commands = log.read_text().splitlines()
    assert len(commands) == 7
    assert all("--allow-missing" in command for command in commands[:-1])
    (videos / "video5.mp4").unlink()
    refused = pipeline("table", **environment)
    assert refused.returncode == 2
    assert "missing: video5.mp4" in refused.stderr.splitlines()
