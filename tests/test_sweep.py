"""Sweeps: a grid over one loaded cache, and its CSV."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch

import train_head
from data.base.errors import UserError
from data.base.scratch import scratch_folder
from data.cache import FeatureCache
from data.cache.listings import Listing
from data.cli.command_line import About, parse
from data.cli.meaning import AtLeast, Meaning, NoneAs
from data.cli.options_file import OPTIONS_FILE, read_options
from data.exchange.options import ImportOptions
from data.import_features import main as import_features
from evaluate.compare import CompareOptions
from evaluate.compare import main as compare
from tests import feature_files as files
from tests.conftest import ROOT
from tests.killed_scratch import killed_with_scratch
from tests.waiting import wait_until
from train_head import TrainOptions
from train_head.stage import fit
from train_head.sweep import SweepOptions, expand, runs, sweep_options
from train_head.sweep import main as sweep


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> Any:
    return SweepOptions(
        cache=cache_path,
        out=tmp_path / "sweep",
        seeds=2,
        csc_weight="0,0.5",
        epochs="1",
        batch_size="32",
        lr="1e-3",
        temporal="none",
        device="cpu",
        processes=1,
        quiet=True,
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_sweep_goes_on_where_it_stopped_and_equals_single_runs(options: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[TrainOptions] = []

    def counted(run: TrainOptions, *arguments: object, **more: object) -> object:
        trained.append(run)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return fit(run, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("train_head.sweep.runs.fit", counted)
    with pytest.raises(KeyboardInterrupt):
        sweep(options)
    assert len(pd.read_csv(options.out / "runs.csv")) == 2
    table = pd.read_csv(sweep(options))
    assert len(trained) == 3 + 2
    assert table[["csc_weight", "seed"]].to_numpy().tolist() == [[0.0, 0], [0.0, 1], [0.5, 0], [0.5, 1]]
    assert table["run"].is_unique
    sweep(options)
    sweep(replace(options, csc_weight="0.5", seeds=1))
    assert len(trained) == 5
    row = table.iloc[3]
    alone = TrainOptions(
        cache=options.cache, out=tmp_path / "alone", epochs=1, batch_size=32, lr=1e-3, temporal="none", seed=1, device="cpu", quiet=True
    )
    run = train_head.main(alone)
    swept = options.out / str(row["run"])
    assert (run / "head.safetensors").read_bytes() == (swept / "head.safetensors").read_bytes()
    logs = [pd.read_csv(folder / "log.csv").drop(columns="seconds") for folder in (run, swept)]
    pd.testing.assert_frame_equal(logs[0], logs[1])
    assert {"test t2v R@1", "val RSum", "training_seconds", "scoring_cpu_seconds", "commit", "cache_digest", "date"} <= set(table.columns)


@pytest.mark.usefixtures("one_thread")
def test_runs_start_only_while_there_is_time(options: Any) -> None:
    """Of runs that are given, instead of those that the options describe."""
    grid = expand(replace(options, head="mean", csc_weight="0", epochs="1,2"))
    asked = iter([True] * 4 + [False] * 4)
    path = runs.sweep(options, grid, lambda: next(asked))
    assert pd.read_csv(path)[["head", "epochs", "seed"]].to_numpy().tolist() == [["mean", 1, 0], ["mean", 1, 1], ["mean", 2, 0]]
    assert not (options.out / OPTIONS_FILE).exists()
    before = path.read_bytes()
    assert runs.sweep(options, grid, lambda: False).read_bytes() == before
    assert len(pd.read_csv(runs.sweep(options, grid))) == 4


@pytest.mark.usefixtures("one_thread")
def test_two_sweeps_of_one_folder_keep_the_rows_of_both(options: Any) -> None:
    """The second one begins and ends while the first one trains."""
    grid = expand(replace(options, head="mean", csc_weight="0"))
    asked: list[Path] = []

    def more() -> bool:
        if len(asked) == 2:
            asked.append(sweep(replace(options, head="dp", csc_weight="0", seeds=1)))
        else:
            asked.append(options.out)
        return True

    path = runs.sweep(options, grid, more)
    assert pd.read_csv(path)[["head", "seed"]].to_numpy().tolist() == [["dp", 0], ["mean", 0], ["mean", 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("run,head\na,mean\nb,mean,7\n", r"is damaged \(.* saw 3\): delete it and sweep again$"),
        ("name\na\n", "is not from a sweep"),
    ],
)
def test_a_damaged_table_of_runs_is_found_before_the_work(options: Any, content: str | None, message: str) -> None:
    """A folder in its place, or contents that pandas describes in two lines."""
    options.out.mkdir()
    path = options.out / "runs.csv"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        sweep(options)
    assert [path.name for path in options.out.iterdir()] == ["runs.csv"]


def results(options: Any) -> dict[str, dict[str, object]]:
    """What the evaluations of a sweep's runs say, by the run."""
    return {path.parent.parent.name: json.loads(path.read_text()) for path in options.out.glob("*/results/metrics.json")}


@pytest.mark.long
def test_a_sweep_of_one_value_evaluates_and_the_table_is_there(
    options: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a folder whose name a command could take for an option."""
    monkeypatch.chdir(tmp_path)
    options = replace(options, cache=options.cache.absolute(), out=Path("-sweep"))
    one = replace(options, csc_weight="0.5", seeds=1, head="mean", evaluate=True)
    row = pd.read_csv(sweep(one)).iloc[0]
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"1 evaluated: python -m evaluate.compare {options.out}")
    [metrics] = results(one).values()
    assert (metrics["run"], metrics["RSum"]) == (str(options.out / str(row["run"])), pytest.approx(row["test RSum"]))
    assert parse(SweepOptions, "a sweep", args=[f"--options={options.out / OPTIONS_FILE}"]) == one
    compare(CompareOptions((options.out,), sweep="csc_weight"))
    said = capsys.readouterr()
    assert f"{options.out}/mean-seed0 " in said.out
    assert said.err == "--sweep csc_weight: no plot, because all trained runs have csc_weight 0.5, and a plot needs two values\n"


@pytest.mark.long
def test_a_sweep_evaluates_what_it_trains_and_what_was_trained_before(options: Any, tmp_path: Path) -> None:
    """From the sweep to the plot; stopped between a training and its evaluation; two processes; another split, without some videos."""
    options = replace(options, head="mean", processes=2, report_on="val", allow_missing=True)
    table = pd.read_csv(sweep(options)).set_index("run")
    assert not results(options)
    evaluated = replace(options, evaluate=True)
    sweep(evaluated)
    found = results(evaluated)
    assert {run: metrics["RSum"] for run, metrics in found.items()} == pytest.approx(table["val RSum"].to_dict())
    assert {metrics["split"] for metrics in found.values()} == {"val"}
    before = {path: path.stat().st_mtime_ns for path in options.out.rglob("*.*") if path.parent != options.out}
    lost = next(path for path in before if path.name == "metrics.json")
    lost.unlink()
    sweep(evaluated)
    again = {path: path.stat().st_mtime_ns for path in before}
    assert {path for path in before if again[path] != before[path]} == {*lost.parent.glob("*")}
    record = compare(CompareOptions((options.out,), sweep="csc_weight", out=tmp_path / "summary"))
    assert [row["seeds"] for row in record["rows"]] == [2, 2]
    assert (tmp_path / "summary" / "sweep-csc_weight.svg").is_file()
    (options.out / str(table.index[0]) / "head.safetensors").write_bytes(b"")
    lost.unlink()
    (options.out / str(table.index[0]) / "results" / "metrics.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"head\.safetensors is damaged or missing"):
        sweep(evaluated)


@pytest.mark.long
def test_runs_side_by_side_are_those_one_after_the_other(options: Any) -> None:
    options = replace(options, max_frames="4", temporal="seq-transf")
    tables = []
    for processes in (1, 2):
        path = sweep(replace(options, processes=processes, out=options.out / str(processes)))
        assert not list(path.parent.glob(".*"))
        tables.append(pd.read_csv(path))
    measured = [name for name in map(str, tables[0]) if "seconds" in name or name == "date"]
    assert len(measured) == 5
    pd.testing.assert_frame_equal(tables[0].drop(columns=measured), tables[1].drop(columns=measured))
    for run in tables[0]["run"]:
        weights = [(options.out / processes / run / "head.safetensors").read_bytes() for processes in ("1", "2")]
        assert weights[0] == weights[1]


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_leaves_whole_rows_and_no_process(options: Any, how: signal.Signals) -> None:
    """Control-C reaches all processes of a terminal, SIGTERM the first one."""
    given: list[str | Path | int] = ["--cache", options.cache, "--out", options.out, "--seeds", 400, "--processes", 2, "--batch-size", 32]
    command = [sys.executable, "-m", "train_head.sweep", *map(str, given), "--epochs", "1", "--temporal", "none", "--device", "cpu"]
    process = subprocess.Popen([*command, "--quiet"], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until((options.out / "runs.csv").exists, "a row", 100)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said == "interrupted; run the same command again to go on\n"
    table = pd.read_csv(options.out / "runs.csv")
    assert 1 <= len(table) < 400
    assert all((options.out / run / "run.json").is_file() for run in table["run"])
    assert not list(options.out.glob(".*"))
    # The last one ends when it sees that the others have.
    wait_until(lambda: not _lives(process.pid), "the end of every process")


@pytest.mark.long
def test_the_features_of_a_killed_sweep_are_removed_by_the_next(options: Any) -> None:
    given: list[str | Path | int] = ["--cache", options.cache, "--out", options.out, "--seeds", 400, "--processes", 2, "--batch-size", 32]
    command = [sys.executable, "-m", "train_head.sweep", *map(str, given), "--epochs", "1", "--temporal", "none", "--device", "cpu"]
    process = subprocess.Popen([*command, "--quiet"], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until((options.out / "runs.csv").exists, "a row", 100)
    [features] = options.out.glob(f"{runs.FEATURES_PREFIX}*")
    one = replace(options, head="mean", csc_weight="0", seeds=1)
    sweep(one)
    assert (features / "report" / "frames.npy").is_file()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (features / "report" / "frames.npy").is_file()
    sweep(one)
    assert not features.exists()


def test_a_sweep_removes_abandoned_features_and_keeps_those_in_use(options: Any) -> None:
    options.out.mkdir()
    [left] = killed_with_scratch(options.out, runs.FEATURES_PREFIX)
    with scratch_folder(options.out, runs.FEATURES_PREFIX) as used:
        sweep(replace(options, head="mean", csc_weight="0", seeds=1))
        assert used.is_dir()
    assert not left.exists()


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_grid_is_every_combination(options: Any) -> None:
    grid = expand(replace(options, head="glccl,xclip", max_frames="2,all", mask_same_video="no,yes", scores="all,word-frame"))
    assert len(grid) == len(set(grid)) == 2 * 2 * 2 * 2 * 2 * 2
    assert {run.max_frames for run in grid} == {2, None}
    assert {run.mask_same_video for run in grid} == {False, True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"csc_weight": "0,half"}, "--csc-weight 0,half: 'half' is not one of its values"),
        ({"temporal": "lstm"}, r"\(auto, seq-transf, seq-lstm, none\)"),
        ({"head": "glccl,nope"}, "--head nope is unknown"),
        ({"seeds": 0}, "--seeds 0 must be at least 1"),
        ({"processes": 0}, "--processes 0 must be at least 1"),
        ({"batch_size": "1"}, "--batch-size 1 must be at least 2"),
        ({"lr": "nan"}, "--lr nan must be a number of at least 0"),
    ],
)
def test_a_wrong_grid_is_refused(options: Any, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep(replace(options, **change))
    assert not (options.out / "runs.csv").exists()


def test_captions_without_tokens_are_found_before_a_run_is_trained(options: Any, tmp_path: Path) -> None:
    """Only those of the test split lack them. A sweep opens that split for its report."""
    texts = files.texts()
    words, sentences = dict(list(texts.items())[:20]), files.sentences(texts)
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(texts):
        arrays: dict[str, Any] = {"text": np.array(text), "sentence": sentences[text]}
        np.savez(folder / f"{i}.npz", **(arrays | {"words": words[text]} if text in words else arrays))
    frames, table = files.npy(tmp_path / "frames", files.videos()), files.table(tmp_path / "table.csv", texts)
    cache = import_features(ImportOptions(cache=tmp_path / "cache", frames=frames, texts=folder, table=table, quiet=True))
    with pytest.raises(UserError, match="4 of 4 texts of split 'test' have a sentence feature but no tokens, which head dp reads"):
        sweep(replace(options, cache=cache, head="mean,dp", csc_weight="0"))
    assert not (options.out / "runs.csv").exists()


def test_runs_on_other_captions_are_not_taken_for_done(options: Any, tmp_path: Path) -> None:
    """Two captions change their videos. No name of a run depends on that, so the sweep would train nothing and call the old figures new."""
    small = replace(options, cache=shutil.copytree(options.cache, tmp_path / "cache"), head="mean", csc_weight="0", seeds=1)
    path = sweep(small)
    table = path.read_bytes()
    listings = FeatureCache(small.cache).listings
    ((name, source),) = listings.sources().items()
    captions = listings.captions(name)
    first, second = captions[captions["split"] == "train"].drop_duplicates("video_id").index[:2]
    captions.loc[[first, second], "caption"] = captions.loc[[second, first], "caption"].to_numpy()
    listings.complete(name, Listing(source, captions, listings.videos(name)))
    with pytest.raises(UserError, match=r"runs.csv holds runs on other captions or videos than .*, such as mean-seed0"):
        sweep(small)
    assert path.read_bytes() == table
    # A row of an earlier version does not say what its run saw, and is kept.
    pd.read_csv(path).drop(columns="data_digest").to_csv(path, index=False)
    sweep(replace(small, seeds=2))
    rows = pd.read_csv(path)
    assert rows["seed"].tolist() == [0, 1]
    assert rows["data_digest"].isna().tolist() == [True, False]


@dataclass(frozen=True)
class OneMore(TrainOptions):
    """The options of training with a hyper-parameter that is new."""

    warmth: Annotated[float, About.OPTIMIZER, Meaning.VARIED, AtLeast(0)] = 0.5
    """How warm it is."""


def test_a_new_hyper_parameter_is_one_field(options: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It is an option of the sweep and a column of its CSV, has its bound, tells runs apart, and decides the result of a resumed one."""
    swept = sweep_options(OneMore)
    with pytest.raises(SystemExit):
        parse(swept, "a sweep", args=["--help"])
    assert re.search(r"--warmth FLOAT,\.\.\. +.? *How warm it is\. \(default: 0\.5\)", capsys.readouterr().out)
    given = [f"--cache={options.cache}", f"--out={options.out}", "--warmth=0.5,2", "--seeds=1", "--head=mean", "--temporal=none"]
    given += ["--epochs=1", "--batch-size=32", "--device=cpu", "--quiet"]
    chosen = parse(swept, "a sweep", args=[*given, "--processes=1"])
    table = pd.read_csv(sweep(chosen))
    assert table["warmth"].tolist() == [0.5, 2.0]
    assert table["run"].is_unique
    assert len(pd.read_csv(sweep(replace(chosen, warmth="2,0.5,3")))) == 3
    with pytest.raises(UserError, match=r"--warmth -1\.0 must be a number of at least 0"):
        sweep(replace(chosen, warmth="3,-1"))
    run = chosen.out / str(table["run"].iloc[1])
    same = OneMore(**read_options(run / OPTIONS_FILE, OneMore, "train_head"))
    assert (same.warmth, same.head) == (2.0, "mean")
    again = replace(same, resume=True, checkpoint_steps=7)
    assert train_head.main(again) == run
    with pytest.raises(UserError, match=r"was started with other options \(--warmth was 2\.0 and is 0\.5\)"):
        train_head.main(replace(again, warmth=0.5))


@dataclass(frozen=True)
class EveryKind(TrainOptions):
    """Options of all types that a sweep can vary."""

    rate: Annotated[float | None, About.LOSS, Meaning.VARIED] = None
    limit: Annotated[int | Literal["all"] | None, About.INPUT, Meaning.VARIED, NoneAs("cached")] = "all"
    form: Annotated[Literal["a", "b"], About.HEAD, Meaning.VARIED] = "b"
    switch: Annotated[bool, About.LOSS, Meaning.VARIED] = True
    word: Annotated[str | None, Meaning.VARIED] = None


@pytest.mark.parametrize(
    ("name", "given", "values"),
    [
        ("rate", "none,0,1e-3", [None, 0.0, 0.001]),
        ("limit", "all,3,cached", ["all", 3, None]),
        ("form", "b,a,b", ["b", "a"]),
        ("switch", "yes,no", [True, False]),
        ("word", "none,all", [None, "all"]),
    ],
)
def test_values_of_a_sweep_have_the_types_of_the_option(options: Any, name: str, given: str, values: list[object]) -> None:
    base = sweep_options(EveryKind)(options.cache, options.out, seeds=1)
    found = [getattr(run, name) for run in expand(replace(base, **{name: given}))]
    assert [(type(value), value) for value in found] == [(type(value), value) for value in values]


@pytest.mark.parametrize(
    ("name", "given", "takes"),
    [("rate", "x", "none, numbers"), ("limit", "none", "cached, all, numbers"), ("form", "c", "a, b"), ("switch", "True", "no, yes")],
)
def test_a_value_of_another_type_is_refused_with_those_that_fit(options: Any, name: str, given: str, takes: str) -> None:
    base = sweep_options(EveryKind)(options.cache, options.out)
    with pytest.raises(UserError) as refused:
        expand(replace(base, **{name: given}))
    assert str(refused.value) == f"--{name} {given}: {given!r} is not one of its values ({takes}); separate values by commas"


@pytest.mark.parametrize("kind", [TrainOptions, EveryKind])
def test_a_sweep_of_nothing_is_a_run_at_its_defaults(options: Any, kind: type[TrainOptions]) -> None:
    assert expand(sweep_options(kind)(options.cache, options.out, seeds=1)) == [kind(options.cache, options.out, quiet=True)]
