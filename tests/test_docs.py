"""The documentation: every command and snippet runs, every link leads somewhere, and what is generated is up to date.

docs/README.md explains the marks of code blocks. A page runs in a folder that has what a reader has who followed the README: some videos, a
table of captions, a cache, a trained head and its results.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml

from data.base.version import version
from data.cli.command_line import parse
from docs.scripts import commands, layout
from tests.conftest import DEMO_CLIP, ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
MARKS = {"needs-network", "needs-dataset", "needs-gpu", "needs-cluster", "needs-browser", "takes-minutes", "until-ctrl-c"}
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
    """The words of each simple command of a script."""
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
    """A module of ours and its arguments, or None where the words call none."""
    for i, word in enumerate(words):
        if word.split("/")[-1] == "glccl" and i == 0:
            return words[1:] or None
        if word == "-m" and i > 0 and re.search(r"(python3?|torchrun|\d)$", words[i - 1]):
            rest = [word for word in words[i + 1 :] if word != "--" or i + 1 < words.index("--")]
            return rest if (ROOT / rest[0].split(".")[0]).is_dir() else None
    return None


def check_words(words: list[str]) -> bool:
    """Whether the words call something of this project, whose options are then parsed."""
    names = [word for word in words if re.fullmatch(r"\w+=.*", word)]
    rest = words[len(names) :] if words[0] != "export" else []
    call = called(rest)
    if call is not None:
        assert call[0] in commands.modules(), f"{call[0]} is no command"
        found = commands.command(call[0])
        fetching = "--fetch-model" in call
        parse(found.options, found.prog, (), _fetching_default(found.options) if fetching else found.default, args=call[1:])
        return True
    if rest and rest[0] == "make":
        assert re.search(rf"^{re.escape(rest[1].replace('.venv', '$(VENV)'))}:", (ROOT / "Makefile").read_text(), re.MULTILINE), rest
        return True
    script = next((word for word in rest if word.startswith("pipelines/")), None)
    if script is not None:
        read = "".join(path.read_text() for path in [ROOT / script, *(ROOT / "pipelines").glob("*.sh"), *(ROOT / "pipelines").rglob("common.sh")])
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
                    checked.append(bool(words) and check_words(words))
                except SystemExit as end:
                    raise AssertionError(f"{page}:{block.line}: {' '.join(words)}") from end
            assert any(checked), f"{page}:{block.line} calls nothing of this project"


# Commands, run


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """In which `python` is a fork of a process that has loaded everything."""
    folder = tmp_path_factory.mktemp("python")
    path = folder / "socket"
    with subprocess.Popen([sys.executable, "-m", "tests.fork_server", str(path)], cwd=ROOT) as server:
        client = f'#!/bin/sh\nexec "{sys.executable}" -I -S "{ROOT}/tests/fork_server.py" "{path}" "$@"\n'
        for name in ("python", "python3"):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(client)
            (folder / "bin" / name).chmod(0o755)
        while not path.exists():
            assert server.poll() is None
            time.sleep(0.05)
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
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_S
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def world(demo_set: Path, tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> Path:
    """What a reader of the README has: videos with a table, and the demo set, each with a cache, a run and results; a small one here."""
    folder = tmp_path_factory.mktemp("docs") / "checkout"
    (folder / "videos").mkdir(parents=True)
    captions = pd.DataFrame(json.loads((demo_set / "annotations" / "MSRVTT_data.json").read_text())["sentences"])
    rows = []
    for split, numbers in {"train": range(16), "val": range(40, 44), "test": range(50, 54)}.items():
        for number in numbers:
            shutil.copy(demo_set / "videos" / f"video{number}.mp4", folder / "videos")
            said = captions.loc[captions["video_id"] == f"video{number}", "caption"]
            rows += [{"video": f"video{number}.mp4", "caption": caption, "split": split} for caption in said]
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    for name in ("pipelines", "glccl"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    for name in ("demo", "docs"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(demo_set, folder / "runs" / "demo")
    model = f"--model {DEMO_CLIP} --device cpu --quiet"
    few = "--head mean --epochs 1 --device cpu --quiet"
    own = "runs/demo"
    run(
        f"""python -m extract --videos videos --annotations table.csv --cache cache {model}
        python -m extract --dataset demo --videos {own}/videos --annotations {own}/annotations --cache {own}/cache {model}
        python -m train_head --cache cache --out runs/glccl --device cpu --quiet --epochs 1
        python -m train_head --cache {own}/cache --out {own}/glccl {few}
        for run in zero-shot:glccl runs/glccl; do
            python -m evaluate --cache cache --run $run --out results/$(basename ${{run%%:*}}) --device cpu --quiet --no-report
        done""",
        folder,
        environment,
    )
    return folder


def with_demo_clip(script: str) -> str:
    """An extraction with weights that are here instead of ones to be downloaded."""
    script = re.sub(r"--model ViT-B-32-quickgelu --pretrained openai", f"--model {DEMO_CLIP}", script)
    return script.replace("pipelines/", f"MODEL={DEMO_CLIP} PRETRAINED= EPOCHS=1 HEADS=mean pipelines/")


def interrupted(script: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Start the one command, wait for its address, and interrupt it."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {script.strip()} --port 0"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        line = server.stdout.readline()
        server.send_signal(signal.SIGINT)
        said = server.stderr.read()
        assert server.wait(TIME_LIMIT_S) == 130, said
        assert "http://127.0.0.1:" in line


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_what_a_page_says_runs(page: str, world: Path, tmp_path: Path, environment: Mapping[str, str]) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(world, folder, symlinks=True)
    found = runnable(page)
    # A reader names new folders.
    for name in re.findall(r"--out (\S+)", "".join(block.text for block in found)):
        shutil.rmtree(folder / name, ignore_errors=True)
    for block in blocks(page):
        for mark in block.marks:
            if mark.startswith("file="):
                (folder / mark.removeprefix("file=")).write_text(block.text)
        if block not in found or block.marks & {"needs-dataset", "needs-gpu", "needs-cluster", "needs-browser", "takes-minutes"}:
            continue
        if block.language == "python":
            run(f"python - <<'END'\n{block.text}END", folder, environment)
        elif "until-ctrl-c" in block.marks:
            interrupted(block.text, folder, environment)
        elif "needs-network" not in block.marks:
            run(block.text, folder, environment)
        elif re.search("-m extract --(videos|dataset table)|pipelines/table", block.text):
            run(with_demo_clip(block.text), folder, environment)


# Links


def anchors(path: Path) -> set[str]:
    """Those that GitHub gives to the headings of a page."""
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


def test_every_page_is_on_the_map_and_says_in_its_first_line_what_it_is_for() -> None:
    linked = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        title, blank, purpose, *_ = path.read_text(encoding="utf-8").split("\n")
        assert title.startswith("# ")
        assert (blank, purpose[:1].isalpha()) == ("", True), path
        assert path.name == "README.md" or f"({path.relative_to(ROOT / 'docs').as_posix()})" in linked, path


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    assert [line for line in lines if len(line) > 120] == []


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


def test_the_page_of_commands_is_up_to_date() -> None:
    """Run `python -m docs.scripts.commands` where this fails."""
    assert commands.PAGE.read_text(encoding="utf-8") == commands.page()


def test_the_page_of_files_is_up_to_date_and_every_file_says_what_it_does() -> None:
    """Run `python -m docs.scripts.layout` where this fails."""
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
    code = (
        f"import sys; from pathlib import Path; from data import report; report._TORCH = 'import sys; sys.path.insert(0, {str(tmp_path)!r})'"
        " + report._TORCH; report.required = lambda: ['no-such-package']; report.main(report.ReportOptions())"
    )
    environment = {**os.environ, "IMAGEIO_FFMPEG_EXE": str(tmp_path / "torch.py")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60, env=environment)
    assert "torch:      fails: RuntimeError: no kernel image\n" in done.stdout
    assert re.search(r"^ffmpeg: +fails: .*Error", done.stdout, re.MULTILINE)
    assert "no-such-package missing" in done.stdout


# From any folder


@pytest.mark.parametrize("way", ["itself", "link", "link to a link"])
def test_glccl_runs_from_any_folder(way: str, tmp_path: Path, environment: Mapping[str, str]) -> None:
    """Also through links whose paths have blanks, beside folders that are named like ours; paths are those of the user's folder."""
    here, bin_folder = tmp_path / "of the user", tmp_path / "my bin"
    for folder in (here / "data", here / "extract", here / "some videos", bin_folder):
        folder.mkdir(parents=True)
    for module in (here / "data" / "__init__.py", here / "extract" / "__main__.py"):
        module.write_text("raise SystemExit('the wrong one')")
    shutil.copytree(ROOT / "pipelines", tmp_path / "a checkout" / "pipelines")
    program = Path(shutil.copy(ROOT / "glccl", tmp_path / "a checkout"))
    # The code is that of this checkout.
    for name in ("data", "docs", "extract", "pyproject.toml", *(path.name for path in ROOT.glob("requirements*.txt"))):
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
    assert call("extract", "--version").stdout == f"python -m extract {version()}\n"
    if way == "itself":
        listed = call()
        assert listed.returncode == 0
        assert {line.split()[0] for line in listed.stdout.splitlines()[2:]} >= {"extract", "data.check", "data.report"}
        refused = call("extrakt")
        assert (refused.returncode, refused.stderr) == (2, "error: there is no command extrakt: glccl alone lists them\n")
