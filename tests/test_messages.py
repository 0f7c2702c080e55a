"""What is said of slips: every remedy that a message names is there, and a --run that is no run is read for what it means."""

import ast
import importlib.util
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import evaluate
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.exchange.options import ImportOptions
from evaluate import EvaluateOptions
from evaluate.compare import CompareOptions
from evaluate.fuse.options import FuseOptions
from extract import ExtractOptions
from search import SearchOptions
from search.add import AddOptions
from search.build import BuildOptions
from search.drop import DropOptions
from search.serve import ServeOptions
from search.status import StatusOptions
from tests.conftest import ROOT
from tests.training_runs import stop_at
from train_head import TrainOptions
from train_head.run import load_head
from train_head.sweep import SweepOptions

COMMANDS = (
    *(ExtractOptions, TrainOptions, SweepOptions, EvaluateOptions, SearchOptions, ServeOptions),
    *(CompareOptions, FuseOptions, ImportOptions),
    *(BuildOptions, AddOptions, StatusOptions, DropOptions),
)

MAKERS = {"UserError": 0, "not_as_written": 2}
"""What makes an error, and which of its arguments are the words."""


def messages() -> Iterator[tuple[str, str]]:
    """Where each UserError of training, search and evaluation is worded, and its words, with {} for what is filled in."""
    for package in ("train_head", "search", "evaluate"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in MAKERS:
                    continue
                said = node.args[MAKERS[node.func.id]]
                literals = [part for part in ast.walk(said) if isinstance(part, ast.Constant | ast.FormattedValue)]
                words = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in literals)
                # One without words of its own passes on another's.
                if words:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", words


def test_options_and_modules_that_messages_name_are_there() -> None:
    options = {f"--{field.name.replace('_', '-')}" for command in COMMANDS for field in fields(command)}
    # Of torchrun.
    options |= {"--nproc-per-node"}
    found = list(messages())
    assert len(found) > 80
    for place, words in found:
        assert set(re.findall(r"--[a-z][a-z-]*[a-z]", words)) <= options, place
        for module in re.findall(r"python -m ([a-z_.]+[a-z])", words):
            assert importlib.util.find_spec(module) is not None, place


def test_messages_name_a_remedy_in_whole_sentences() -> None:
    """Behind what is wrong stands a colon or a semicolon, and then what to do; or the line says what a value must be."""
    for place, words in messages():
        assert " must be " in words or re.search(r"[:;] ", words) or words == "name at least one folder of results", (place, words)
        assert not re.search(r"[:;] or |; and ", words), (place, words)


@pytest.fixture(scope="module")
def runs(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, one that was stopped, results, and a folder of other files."""
    folder = tmp_path_factory.mktemp("runs")
    options = TrainOptions(cache_path, folder / "sweep" / "run", head="mean", temporal="none", epochs=1, device="cpu", quiet=True)
    train_head.main(options)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(TrainOptions(cache_path, folder / "stopped", head="mean", temporal="none", device="cpu", quiet=True))
    evaluate.main(EvaluateOptions(cache_path, "zero-shot:mean", folder / "results", device="cpu", report=False, quiet=True))
    (folder / "other").mkdir()
    (folder / "other" / "thesis.txt").touch()
    return folder


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ("glccl", "--run glccl: no such folder; the head without training is --run zero-shot:glccl"),
        ("GLCCL", "the head without training is --run zero-shot:glccl"),
        ("mean", "the head without training is --run zero-shot:mean"),
        ("zeroshot:glccl", "the head without training is --run zero-shot:glccl"),
        ("zero_shot-glim-local", "the head without training is --run zero-shot:glim-local"),
        ("Zero-Shot:glccl", "the head without training is --run zero-shot:glccl"),
        ("wti", "head wti scores nothing before training: train it with python -m train_head --head wti and name its folder"),
        ("zero-shot:xpool", "head xpool scores nothing before training"),
        ("zero-shot", "--run zero-shot: the name of a head is missing: use zero-shot:glccl, "),
        ("zero-shot:", "the name of a head is missing"),
        ("zero-shot:gccl", "there is no head 'gccl': use zero-shot:glccl, "),
        ("", "--run is empty"),
        ("nowhere", "--run nowhere: there is no such folder: name the folder of a run, train one with python -m train_head --out nowhere"),
        ("sweep/run/run.json", "is a file inside a run: name the run's folder, --run sweep/run"),
        ("sweep/run/head.safetensors", "is a file inside a run: name the run's folder, --run sweep/run"),
        ("stopped", "is an unfinished run: finish it with the same train_head command and --resume"),
        ("results", "holds results of python -m evaluate, not a run"),
        ("sweep", "--run sweep is a folder of several runs: name one of them, such as --run sweep/run"),
        ("other", "--run other is not a run (run.json is missing): name the folder"),
        ("other/thesis.txt", "is not a run"),
    ],
)
def test_a_run_that_is_none_is_read_for_what_it_means(
    runs: Path, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, run: str, line: str
) -> None:
    monkeypatch.chdir(runs)
    with pytest.raises(UserError) as raised:
        load_head(run, cache, torch.device("cpu"))
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_by_the_name_of_a_head_is_the_run(
    runs: Path, cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "sweep" / "run", tmp_path / "glccl")
    monkeypatch.chdir(tmp_path)
    assert load_head("glccl", cache, torch.device("cpu"))[0].name == "mean"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("run.json", "holds a finished run: name another folder, or delete {out} to train it again"),
        ("checkpoint.json", "holds an unfinished run: add --resume to continue it, name another folder, or delete {out} to start again"),
        # Killed before its first checkpoint.
        ("log.csv", "holds an unfinished run: add --resume to continue it, name another folder, or delete {out} to start again"),
        ("thesis.txt", "holds other files, such as thesis.txt: name a new folder or an empty one"),
    ],
)
def test_a_folder_that_is_not_empty_is_refused_in_whole_sentences(tmp_path: Path, file: str, line: str) -> None:
    """Before the cache is read."""
    (tmp_path / file).touch()
    with pytest.raises(UserError) as raised:
        train_head.main(TrainOptions(tmp_path / "nowhere", tmp_path, quiet=True))
    assert str(raised.value) == f"--out {tmp_path} {line.format(out=tmp_path)}"


def test_what_a_file_manager_leaves_makes_no_folder_full(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").touch()
    with pytest.raises(UserError, match="there is no cache"):
        train_head.main(TrainOptions(tmp_path / "nowhere", tmp_path / "out", quiet=True))
