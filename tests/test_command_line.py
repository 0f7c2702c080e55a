"""Command lines: --help in groups with examples, --version, and options from files."""

import dataclasses
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import UserError
from data.cli.command_line import parse
from data.cli.options_file import OPTIONS_FILE, read_options, write_options
from data.compute.device import budget_bytes
from evaluate import EvaluateOptions
from evaluate import main as evaluate
from extract import ExtractOptions
from search import SearchOptions
from tests.choice import long_but
from tests.conftest import ROOT
from train_head import TrainOptions
from train_head import main as train

COMMANDS = {
    "extract": "extract.options.ExtractOptions",
    "extract.encoders": "extract.encoders.EncodersOptions",
    "train_head": "train_head.options.TrainOptions",
    "train_head.sweep": "train_head.sweep.options.SweepOptions",
    "evaluate": "evaluate.options.EvaluateOptions",
    "evaluate.compare": "evaluate.compare.CompareOptions",
    "search": "search.options.SearchOptions",
    "search.serve": "search.serve.ServeOptions",
    "data.check": "data.check.CheckOptions",
    "data.presets": "data.presets.PresetsOptions",
    "data.verify": "data.verify.VerifyOptions",
    "data.merge": "data.merge.MergeOptions",
    "data.sources": "data.sources.SourcesOptions",
    "data.report": "data.report.ReportOptions",
}
"""Every command that people call, with its class of options."""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, encoding="utf-8"
    )


ASK_FOR_HELP = """
import json, runpy, sys
for name in json.loads(sys.argv[1]):
    sys.argv = name.split() + ["--help"]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        loaded = sorted({"torch", "numpy", "pandas"} & sys.modules.keys())
        print(json.dumps([name, end.code or 0, loaded]), file=sys.stderr)
    print("\f", flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Help:
    """What a command says to --help, its exit status, and which large packages were loaded by then."""

    text: str
    status: int
    loaded: list[str]


@pytest.fixture(scope="module")
def helps() -> dict[str, Help]:
    """Of every command, asked one after the other in one process that has loaded nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", ASK_FOR_HELP, json.dumps(list(COMMANDS))],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
        encoding="utf-8",
    )
    texts = done.stdout.split("\f\n")[:-1]
    ends = [json.loads(line) for line in done.stderr.splitlines()]
    return {name: Help(text, status, loaded) for text, (name, status, loaded) in zip(texts, ends, strict=True)}


def options_class(name: str) -> type[Any]:
    module, _, kind = COMMANDS[name].rpartition(".")
    found: type[Any] = getattr(importlib.import_module(module), kind)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_every_option_in_a_group_and_two_examples_that_parse(
    name: str, helps: dict[str, Help], capsys: pytest.CaptureFixture[str]
) -> None:
    assert helps[name].status == 0
    shown, _, examples = helps[name].text.partition("examples:")
    kind = options_class(name)
    groups = re.findall(r"^╭─ (.*) options ─", shown, re.MULTILINE)
    assert groups[-1] == "general"
    assert "other" not in groups
    assert "(default: '')" not in shown
    flat = " ".join(re.sub("[│╭╰─╮╯]", " ", shown).split())
    for field in dataclasses.fields(kind):
        option = f"--{field.name.rstrip('_').replace('_', '-')}"
        # Its text comes after it, where a default alone does not count.
        assert re.search(rf"{option}(, --no-{option[2:]}| [^-]\S*) [^(\s]|\[?{field.name.upper()}\b", flat), field.name
    lines = [line.strip() for line in examples.strip().split("\n")]
    assert len(lines) >= 2
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        assert words[: 2 + len(name.split())] == ["python", "-m", *name.split()]
        assert parse(kind, "a command", args=words[2 + len(name.split()) :])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_at_once_and_every_switch_can_be_turned_off(name: str, helps: dict[str, Help]) -> None:
    assert helps[name].loaded == []
    hints = get_type_hints(options_class(name))
    switches = [field.name.replace("_", "-") for field in dataclasses.fields(options_class(name)) if hints[field.name] is bool]
    assert [switch for switch in switches if f"--{switch}, --no-{switch}" not in helps[name].text] == []


@pytest.mark.parametrize("columns", ["1", "5", "39", "300"])
def test_help_fits_any_terminal(columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        parse(SearchOptions, "search", args=["--help"])
    # Borders are blanks where the output is of an encoding without them; usage and description are not in boxes.
    boxes = [line for line in capsys.readouterr().out.split("\n") if line.startswith(("╭", "│", "╰", "  "))]
    assert 30 < max(map(len, boxes)) <= max(40, int(columns))
    assert os.environ["COLUMNS"] == columns


MOVED = {
    "data check": "data.check",
    "data presets": "data.presets",
    "data verify": "data.verify",
    "data merge": "data.merge",
    "data sources": "data.sources",
    "evaluate.search": "search",
    "evaluate.serve": "search.serve",
}


@pytest.mark.parametrize("before", long_but([*MOVED][:2], MOVED))
def test_a_command_answers_under_its_former_name(before: str) -> None:
    now = MOVED[before]
    former, present = (command(*name.split(), "--version") for name in (before, now))
    assert former.stderr == f"python -m {before} is now python -m {now}\n"
    assert (former.returncode, former.stdout) == (present.returncode, present.stdout)
    # Arguments and exit status pass through.
    former, present = (command(*name.split(), "--unknown") for name in (before, now))
    assert (former.returncode, former.stdout, former.stderr.partition("\n")[2]) == (2, present.stdout, present.stderr)


def test_the_room_alone_names_its_verbs() -> None:
    listed = command("data", "--help")
    assert (listed.returncode, [name for name in COMMANDS if name.startswith("data.") and name[5:] not in listed.stdout]) == (0, [])
    for arguments in (("data",), ("data", "chek")):
        refused = command(*arguments)
        assert refused.returncode == 2
        verbs = "check, presets, verify, merge, publish, import_features, export_features, sources, report"
        assert re.fullmatch(rf"error: .*choose one of {verbs}\n", refused.stderr)


@pytest.mark.parametrize("name", ["extract", "data", "data.verify"])
def test_the_version_is_in_one_place(name: str) -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = command(*name.split(), "--version")
    assert (done.returncode, done.stdout) == (0, f"python -m {name} {stated}\n")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == stated


TEXT = st.text(min_size=1).filter(lambda text: text.strip() == text)
FOLDERS = {"cache": TEXT.map(Path), "out": TEXT.map(Path)}
TRAIN_VALUES = {
    "resume": st.booleans(),
    "preset": st.none() | TEXT.filter(lambda text: text not in ("~", "null")),
    "head": TEXT,
    "select_on": st.sampled_from(["val", "test"]),
    "csc_weight": st.floats(allow_nan=False),
    "lr": st.floats(min_value=0, max_value=1),
    "epochs": st.integers(),
    "max_frames": st.none() | st.integers(),
    "freeze_layers": st.integers(min_value=-1, max_value=99),
}


@settings(deadline=None, max_examples=30)
@given(values=st.fixed_dictionaries(FOLDERS, optional=TRAIN_VALUES))
def test_what_a_run_leaves_is_read_back(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "options.yaml"
    options = TrainOptions(**values)
    write_options(path, options, "python -m train_head")
    assert path.read_bytes().isascii()
    assert TrainOptions(**read_options(path, TrainOptions, "train_head")) == options
    assert parse(TrainOptions, "train_head", args=["--options", str(path)]) == options


def test_json_and_both_spellings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    path.write_text(
        json.dumps({"cache": "c", "run": "r", "max-frames": 4, "candidates_from": "pooled", "quiet": True, "query": ["a", "b c"]})
    )
    expected = SearchOptions(cache=Path("c"), run="r", max_frames=4, candidates_from="pooled", quiet=True, query=("a", "b c"))
    assert parse(SearchOptions, "search", args=[f"--options={path}"]) == expected


def test_the_command_line_takes_precedence(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("cache: c\nrun: r\nquiet: yes\ntop: 3\nquery: a cat\n")
    found = parse(SearchOptions, "search", args=["--options", str(path), "--no-quiet", "--run", "s", "a", "dog"])
    assert found == SearchOptions(cache=Path("c"), run="s", quiet=False, top=3, query=("a", "dog"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr: 1e-3\nepoch: 3", "'epoch' is not an option of train_head: did you mean epochs?"),
        ("colour: red", "'colour' is not an option of train_head$"),
        ("lr: fast", "lr is 'fast': expected a number"),
        ("epochs: 2.5", "epochs is '2.5': expected a whole number"),
        ("quiet: perhaps", "quiet is 'perhaps': expected true or false"),
        ("select-on: train", "select-on is 'train': expected val or test"),
        ("epochs: null", "epochs is 'null': expected a whole number"),
        ("epochs: [1, 2]", "epochs: expected a whole number, not a list"),
        ("head: {a: b}", "head: expected text, not a mapping"),
        ("lr: 1\nlr: 2", "'lr' is given twice"),
        ("clip-lr: 1\nclip_lr: 2", "'clip_lr' is given twice"),
        ("- lr", "lines NAME: VALUE"),
        ("", "lines NAME: VALUE"),
        ("lr", "lines NAME: VALUE"),
        ("lr: [", "cannot be read as YAML or JSON"),
        ("lr: &a [*a]", "cannot be read as YAML or JSON"),
        ("? [a]\n: b", "cannot be read as YAML or JSON|is not an option"),
        ("a: " + "[" * 5000, "cannot be read as YAML or JSON"),
        ("lr: !!python/object:os.system x", "cannot be read|expected"),
        ("options: other.yaml", "'options' is not an option of train_head"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        read_options(path, TrainOptions, "train_head")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert capsys.readouterr() == ("", "")


@settings(deadline=None)
@given(content=st.binary(max_size=60) | st.text(alphabet="lrepochs:-[]{}&*!'\" \n\t10.#?,|>", max_size=40).map(str.encode))
def test_any_file_is_options_or_one_line(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        read_options(path, TrainOptions, "train_head")
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("arguments", [["--options"], ["--options", "/nowhere/o.yaml"], ["--options", "/"], ["--options=a", "--options=b"]])
def test_the_shell_is_told_in_a_line(arguments: list[str]) -> None:
    done = command("train_head", *arguments)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*--options.*\n", done.stderr)


def test_words_after_two_dashes_are_no_options() -> None:
    found = parse(SearchOptions, "search", args=["--cache", "c", "--run", "r", "--", "--version", "--options"])
    assert found.query == ("--version", "--options")


def test_runs_are_repeated_from_what_they_leave(cache_path: Path, tmp_path: Path) -> None:
    run = train(
        TrainOptions(cache=cache_path, out=tmp_path / "run", head="mean", epochs=1, batch_size=8, lr=3e-4, device="cpu", quiet=True)
    )
    again = train(parse(TrainOptions, "train_head", args=["--options", str(run / OPTIONS_FILE), "--out", str(tmp_path / "again")]))
    assert (again / "head.safetensors").read_bytes() == (run / "head.safetensors").read_bytes()
    results = evaluate(EvaluateOptions(cache=cache_path, run=str(run), out=tmp_path / "results", device="cpu", quiet=True, report=False))
    before = json.loads((results / "metrics.json").read_text())
    # Into the same folder: the file is one of its own results.
    evaluate(parse(EvaluateOptions, "evaluate", args=["--options", str(results / OPTIONS_FILE)]))
    after = json.loads((results / "metrics.json").read_text())
    assert before["text_to_video"] == after["text_to_video"]
    assert before["provenance"]["options"] == after["provenance"]["options"]


def test_a_cache_says_with_what_each_source_was_extracted(cache_path: Path, extract_options: ExtractOptions) -> None:
    used = ExtractOptions(**read_options(cache_path / "options-demo.yaml", ExtractOptions, "extract"))
    given: dict[str, Any] = {name: value for name, value in vars(extract_options).items() if value is not None}
    # What was not given is there as it was used.
    given |= {"decode_device": "cpu", "resize_on": "cpu"}
    # A copy of the folder that was extracted into.
    given.pop("cache")
    assert {name: getattr(used, name) for name in given} == given
    assert (used.precision, used.dtype, used.pictures) == ("fp32", "float16", "stored")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quiet=true", "ring"], "--quiet=true: --quiet takes no value: write --quiet or --no-quiet"),
        (["--each=", "ring"], "--each takes no value"),
        (["--candidates-from=pooled", "--html=", "ring"], "--html is empty: name a path, or leave the option out"),
        (["--cache", "", "ring"], "--cache is empty"),
        (["--options", "", "ring"], "--options is empty"),
    ],
)
def test_switches_with_values_and_empty_paths_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(SearchOptions, "search", args=["--cache", "c", "--run", "r", *arguments])
    assert parse(SearchOptions, "search", args=["--cache", "c", "--run", "r", "--", *arguments]).query == tuple(arguments)


def test_an_empty_path_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("cache: c\nout:\n")
    with pytest.raises(UserError, match=r"mine\.yaml: out is empty: expected a path"):
        read_options(path, TrainOptions, "train_head")


@pytest.mark.parametrize("gib", [-1.0, float("nan"), float("inf")])
def test_a_memory_budget_is_a_number(gib: float) -> None:
    with pytest.raises(UserError, match=f"--memory-budget {gib}: a number of GiB, 0 or more"):
        budget_bytes(gib)
