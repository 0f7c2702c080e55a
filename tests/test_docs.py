"""The documentation: every command and snippet runs, every link leads somewhere, and what is generated is up to date.

docs/README.md explains the marks of code blocks. Each page runs in a copy of a folder that holds what a reader of the README has by then: a
few videos, a table of captions, a cache, a trained head and its results.
"""

import itertools
import json
import os
import pkgutil
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pandas as pd
import pytest
import yaml
from PIL import Image

import train_head.sweep.runs
from data.base.version import version
from data.cli.command_line import parse
from demo import generate
from docs.scripts import commands, layout, recipes
from tests.choice import long_but
from tests.conftest import DEMO_CLIP, ROOT
from tests.tiny_encoders import LAYERS, VIT, Family
from tests.waiting import wait_until

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
GENERATED = {f"docs/{name}.md" for name in ("design/ablations", "design/encoders", "reference/commands", "reference/layout")}
NEVER_RUN = frozenset({"needs-dataset", "needs-gpu", "needs-cluster", "needs-browser", "needs-server", "takes-minutes"})
MARKS = NEVER_RUN | {"needs-network", "long", "until-ctrl-c"}
TIME_LIMIT_S = 120


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    marks: frozenset[str]
    text: str


def blocks(page: str) -> list[Block]:
    found = []
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        language, *marks = match[1].split() or [""]
        found.append(Block(text[: match.start()].count("\n") + 1, language, frozenset(marks), match[2]))
    return found


def runnable(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("sh", "python")]


# Commands, parsed


def words_of(script: str) -> Iterator[list[str]]:
    """The words of each simple command of a script.

    `a=1 python -m extract | head` gives ["a=1", "python", "-m", "extract"], then ["head"].
    """
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("();<>|&"):
                yield words
                words = []
            else:
                words.append(word)
        yield words


def called(words: list[str]) -> list[str] | None:
    """The module of ours that the words run, and its arguments; None if they run something else."""
    for i, word in enumerate(words):
        if word.split("/")[-1] == "glccl" and i == 0:
            return words[1:] or None
        if word == "-m" and i > 0 and re.search(r"(python3?|torchrun|\d)$", words[i - 1]):
            rest = [word for word in words[i + 1 :] if word != "--" or i + 1 < words.index("--")]
            return rest if (ROOT / rest[0].split(".")[0]).is_dir() else None
    return None


@cache
def modules() -> list[str]:
    return commands.modules()


@cache
def command_of(module: str) -> commands.Command:
    return commands.command(module)


@cache
def check_words(words: tuple[str, ...]) -> bool:
    """Parse the options if the words run something of this project; returns whether they do."""
    names = [word for word in words if re.fullmatch(r"\w+=.*", word)]
    rest = list(words[len(names) :]) if words[0] != "export" else []
    call = called(rest)
    if call is not None:
        assert call[0] in modules(), f"{call[0]} is no command"
        found = command_of(call[0])
        fetching = "--fetch-model" in call
        parse(found.options, found.prog, (), _fetching_default(found.options) if fetching else found.default, args=call[1:])
        return True
    if "pytest" in rest:
        assert all((ROOT / word).exists() for word in rest if word.startswith("tests/")), rest
        return True
    if rest and rest[0] == "make":
        assert re.search(rf"^{re.escape(rest[1].replace('.venv', '$(VENV)'))}:", (ROOT / "Makefile").read_text(), re.MULTILINE), rest
        return True
    script = next((word for word in rest if word.startswith("pipelines/")), None)
    if script is not None:
        read = "".join(
            path.read_text() for path in [ROOT / script, *(ROOT / "pipelines").glob("*.sh"), *(ROOT / "pipelines").rglob("common.sh")]
        )
        for name in names:
            assert re.search(rf"\b{name.partition('=')[0]}\b", read), name
        return True
    return False


def _fetching_default(options: type[Any]) -> Any:
    return options(videos=Path(), cache=Path())


@pytest.mark.parametrize("page", PAGES)
def test_marks_are_known_and_marked_commands_parse(page: str) -> None:
    for block in runnable(page):
        assert block.marks <= MARKS, f"{page}:{block.line}"
        if block.language == "sh" and block.marks:
            checked = []
            for words in words_of(block.text):
                try:
                    checked.append(bool(words) and check_words(tuple(words)))
                except SystemExit as end:
                    raise AssertionError(f"{page}:{block.line}: {' '.join(words)}") from end
            assert any(checked), f"{page}:{block.line} calls nothing of this project"


# Commands, run


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Environment variables under which `python` is a fork of a process that has loaded everything."""
    folder = tmp_path_factory.mktemp("python")
    path = folder / "socket"
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-m", "tests.fork_server", str(path)], cwd=ROOT, env=one_thread) as server:
        client = f'#!/bin/sh\nexec "{sys.executable}" -I -S "{ROOT}/tests/fork_server.py" "{path}" "$@"\n'
        for name in ("python", "python3"):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(client)
            (folder / "bin" / name).chmod(0o755)
        wait_until(lambda: path.exists() or server.poll() is not None, "the server of forks listens")
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "VIRTUAL_ENV")}
        yield {
            **inherited,
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        server.kill()


def run(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT_S,
    )
    assert done.returncode == 0, f"{done.stderr}\n{script}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> Path:
    """What a reader has after the README, made from few videos and without reports."""
    folder = tmp_path_factory.mktemp("docs") / "checkout"
    own = folder / "runs" / "demo"
    (folder / "videos").mkdir(parents=True)
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    shutil.copy(ROOT / "glccl", folder)
    for name in ("docs", "pyproject.toml", "requirements.txt", *commands.ROOMS):
        (folder / name).symlink_to(ROOT / name)
    (folder / "tests").mkdir()
    (folder / "tests" / "golden").symlink_to(ROOT / "tests" / "golden")
    generate.main(generate.GenerateOptions(out=own, train=6, val=2, test=4, quiet=True))
    table = pd.DataFrame(json.loads((own / "annotations" / "MSRVTT_data.json").read_text())["sentences"])
    number = table["video_id"].str.removeprefix("video").astype(int)
    table["split"] = pd.cut(number, [-1, 5, 7, 11], labels=["train", "val", "test"])
    table["video"] = table["video_id"] + ".mp4"
    table[["video", "caption", "split"]].to_csv(folder / "table.csv", index=False)
    for video in (own / "videos").glob("*.mp4"):
        shutil.copy(video, folder / "videos")
    Image.new("RGB", (64, 48), "red").save(folder / "ring.jpg")
    run(
        f"""python -m extract --dataset table --videos videos/ --annotations table.csv --cache cache/ --model {DEMO_CLIP} \\
            --device cpu --quiet
        python -m train_head --cache cache/ --out runs/glccl --device cpu --epochs 1 --quiet
        python -m evaluate --cache cache/ --run zero-shot:glccl --out results/zero-shot --device cpu --no-report --quiet
        python -m evaluate --cache cache/ --run runs/glccl --out results/glccl --device cpu --no-report --quiet""",
        folder,
        environment,
    )
    shutil.copytree(folder / "cache", own / "cache")
    shutil.copytree(folder / "runs" / "glccl", own / "glccl")
    return folder.rename(folder.with_name("made"))


@contextmanager
def copy_of(world: Path) -> Iterator[Path]:
    """A copy of the world, at the path where it was made, because a cache remembers the path of its videos."""
    folder = world.with_name("checkout")
    shutil.copytree(world, folder, symlinks=True)
    yield folder
    shutil.rmtree(folder)


def with_local_clip(script: str, folder: Path) -> str:
    """The same extraction with the demo's CLIP, or for patch tokens a small vision transformer, instead of weights to be downloaded."""
    model = Family("ViT-B-32", text=LAYERS, vision=VIT).write(folder / "clip") if "--tokens" in script else DEMO_CLIP
    script = re.sub(r"--model ViT-B-32-quickgelu --pretrained openai", f"--model {model}", script)
    return script.replace("pipelines/", f"MODEL={DEMO_CLIP} PRETRAINED= EPOCHS=1 HEADS=mean pipelines/")


def interrupted(script: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Start a server, wait until it prints its address, and interrupt it."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {script.strip()} --port 0"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        line = server.stdout.readline()
        server.send_signal(signal.SIGINT)
        said = server.stderr.read()
        assert server.wait(TIME_LIMIT_S) == 130, said
        assert "http://127.0.0.1:" in line


def run_page(page: str, folder: Path, environment: Mapping[str, str], skipped: frozenset[str]) -> None:
    """Run the blocks of a page that have none of these marks, in order."""
    found = [block for block in runnable(page) if not block.marks & skipped]
    # Commands refuse folders with other files; a reader would name new ones.
    for name in re.findall(r"--out ((?:runs|results|summary)\S*)", "".join(block.text for block in found)):
        shutil.rmtree(folder / name, ignore_errors=True)
    for block in blocks(page):
        for mark in block.marks:
            if mark.startswith("file="):
                (folder / mark.removeprefix("file=")).write_text(block.text)
        if block not in found:
            continue
        if block.language == "python":
            run(f"python - <<'END'\n{block.text}END", folder, environment)
        elif "until-ctrl-c" in block.marks:
            interrupted(block.text, folder, environment)
        elif "needs-network" not in block.marks:
            run(block.text, folder, environment)
        elif re.search("-m extract --(videos|dataset table)|pipelines/table", block.text):
            run(with_local_clip(block.text, folder), folder, environment)


def test_what_the_readme_says_runs(world: Path, environment: Mapping[str, str]) -> None:
    with copy_of(world) as folder:
        run_page("README.md", folder, environment, NEVER_RUN | {"long"})


@pytest.mark.long
def test_what_the_pages_say_runs(world: Path, environment: Mapping[str, str]) -> None:
    """One test for all pages, because several processes of pytest would each make the world again."""
    for page in PAGES:
        if any(not block.marks & NEVER_RUN for block in runnable(page)):
            with copy_of(world) as folder:
                run_page(page, folder, environment, NEVER_RUN)
                if page == "README.md":
                    assert {path.name for path in (folder / "summary").iterdir()} > {"table.txt", "comparison.json"}


def _output_kinds(cell: Any) -> list[list[str]]:
    """The kinds of a cell's outputs. A stream arrives in pieces, however the kernel sends them: they count once."""
    every = [[*output.get("data", {output.get("name"): ""})] for output in cell.get("outputs", [])]
    return [kinds for kinds, _ in itertools.groupby(every)]


@pytest.mark.long
def test_the_tutorial_runs(tmp_path: Path) -> None:
    """Every cell runs, and gives outputs of the same kinds as the stored ones."""
    done = subprocess.run(
        [sys.executable, "-m", "docs.scripts.tutorial", str(tmp_path / "new.ipynb")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT_S,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    new, old = (nbformat.read(path, as_version=4) for path in (tmp_path / "new.ipynb", ROOT / "docs" / "tutorial.ipynb"))
    kinds, stored = ([_output_kinds(cell) for cell in book.cells] for book in (new, old))
    assert kinds == stored
    assert any("image/png" in output for outputs in kinds for output in outputs)


# Links


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "tests/golden/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        target, _, anchor = (link[0] or link[1]).partition("#")
        if not re.match(r"https?:", target):
            path = (ROOT / page).parent / target if target else ROOT / page
            assert path.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("page", sorted({*PAGES} - GENERATED))
def test_files_and_python_names_in_a_page_are_there(page: str) -> None:
    """Such as `tests/test_docs.py` and `data.cache.FeatureCache`; NAME stands for any."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    rooms = "|".join([*commands.ROOMS, "docs", "pipelines", "tests"])
    for name in re.findall(rf"`((?:{rooms})[./][\w./]*\w)(?:\([^`]*)?`", text):
        if "NAME" not in name and not (ROOT / name).exists():
            assert "/" not in name, name
            pkgutil.resolve_name(name)


def test_every_page_is_on_the_map_and_says_in_its_first_line_what_it_is_for() -> None:
    linked = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        title, blank, purpose, *_ = path.read_text(encoding="utf-8").split("\n")
        assert title.startswith("# ")
        assert (blank, purpose[:1].isalpha()) == ("", True), path
        assert path.name == "README.md" or f"({path.relative_to(ROOT / 'docs').as_posix()})" in linked, path


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("page", sorted({*PAGES, "CHANGELOG.md"} - GENERATED))
def test_lines_are_short(page: str) -> None:
    """At most 120 characters. Outside the README, rows of tables, commands, output and HTML need not be wrapped."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page != "README.md":
        text = re.sub(r"^```.*?^```$|^[|<][^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert [line for line in text.splitlines() if len(line) > 120] == []


def test_pages_that_the_code_names_are_there() -> None:
    named = {
        name
        for pattern in ("*.py", "*.sh", "Makefile", "*.toml", "*.j2")
        for path in ROOT.rglob(pattern)
        if not {".venv", "runs"} & set(path.parts)
        for name in re.findall(r"\bdocs/[\w./-]+\.(?:md|csv|svg|png)", path.read_text(encoding="utf-8"))
    }
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


# What is generated


def test_reading_a_command_leaves_its_package_as_it_was() -> None:
    assert commands.command("train_head.sweep").prog == "python -m train_head.sweep"
    assert train_head.sweep.runs is sys.modules["train_head.sweep.runs"]


def test_the_page_of_commands_is_up_to_date() -> None:
    """Run `python -m docs.scripts.commands` if this fails. The page is the same for any terminal."""
    # A new process: typing keeps the values of a Literal in the order in which they were first seen, which depends on earlier imports.
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    narrow = {"COLUMNS": "37", "LINES": "9", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        [sys.executable, "-m", "docs.scripts.commands", "--print"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, **ascii_only, **narrow},
    )
    assert done.stdout.decode() == commands.PAGE.read_text(encoding="utf-8")


def test_the_table_of_recipes_is_up_to_date() -> None:
    """Run `python -m docs.scripts.recipes` if this fails."""
    assert recipes.page() == recipes.PAGE.read_text(encoding="utf-8")
    assert "`didemo`" in recipes.table()


def test_the_page_of_files_is_up_to_date_and_every_file_says_what_it_does() -> None:
    """Run `python -m docs.scripts.layout` if this fails."""
    page = layout.page()
    assert layout.PAGE.read_text(encoding="utf-8") == page
    assert re.findall(r"^\| `[^`]+` \|  \|$", page, re.MULTILINE) == []


# The version, and the report for bug reports


def test_the_version_is_the_same_everywhere() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version()
    assert (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1].split()[0] == version()


def test_the_report_names_versions_processor_and_ffmpeg(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "data.report", "--json"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert found["glccl"] == version()
    assert found["python"].count(".") == 2
    assert found["processor"]
    assert re.fullmatch(r"built for (CUDA \S+|the CPU alone)(; .*)?", found["torch"])
    assert found["ffmpeg"].startswith("ffmpeg version ")
    assert {"torch", "open_clip_torch", "faiss-cpu", "openpyxl"} <= found["packages"].keys()
    assert found["packages"]["numpy"]


def test_the_report_of_what_is_broken_is_a_report(tmp_path: Path) -> None:
    """A torch that cannot be imported, an ffmpeg that is none, a package that is not installed."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('no kernel image')")
    first = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    code = (
        f"from data import report; report._TORCH = {first!r} + report._TORCH; "
        "report.packages = lambda: ['no-such-package']; report.main(report.ReportOptions())"
    )
    environment = {**os.environ, "IMAGEIO_FFMPEG_EXE": str(tmp_path / "torch.py")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60, env=environment)
    assert "torch:      fails: RuntimeError: no kernel image\n" in done.stdout
    assert re.search(r"^ffmpeg: +fails: .*Error", done.stdout, re.MULTILINE)
    assert "no-such-package missing" in done.stdout


# From any folder


@pytest.mark.parametrize("way", long_but(["link to a link"], ["itself", "link", "link to a link"]))
def test_glccl_runs_from_any_folder(way: str, tmp_path: Path) -> None:
    """Also through links whose paths have blanks, beside folders that are named like ours; paths are those of the user's folder."""
    here, bin_folder = tmp_path / "of the user", tmp_path / "my bin"
    for folder in (here / "data", here / "extract", here / "some videos", bin_folder):
        folder.mkdir(parents=True)
    for module in (here / "data" / "__init__.py", here / "extract" / "__main__.py"):
        module.write_text("raise SystemExit('the wrong one')")
    shutil.copytree(ROOT / "pipelines", tmp_path / "a checkout" / "pipelines")
    program = Path(shutil.copy(ROOT / "glccl", tmp_path / "a checkout"))
    # The code is that of this checkout.
    for name in ("docs", "pyproject.toml", *commands.ROOMS):
        (tmp_path / "a checkout" / name).symlink_to(ROOT / name)
    if way != "itself":
        (bin_folder / "glccl").symlink_to(os.path.relpath(program, bin_folder))
        program = bin_folder / "glccl"
    if way == "link to a link":
        (here / "g").symlink_to(program)
        program = here / "g"
    inherited = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {**inherited, "PYTHON": sys.executable}
        return subprocess.run([program, *arguments], cwd=here, capture_output=True, text=True, check=False, timeout=60, env=variables)

    done = call("data.check", "--videos", "some videos")
    assert done.returncode == 2
    assert "some videos" in done.stderr
    if way == "itself":
        assert call("extract", "--version").stdout == f"python -m extract {version()}\n"
        listed = call()
        assert listed.returncode == 0
        assert {line.split()[0] for line in listed.stdout.splitlines()[2:]} >= {"extract", "data.check", "data.report"}
        refused = call("extrakt")
        assert (refused.returncode, refused.stderr) == (2, "error: there is no command extrakt: glccl alone lists them\n")
