"""Standard streams as scripts have them: pipes whose reader goes, closed and full ones, encodings that lack a character."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.cli.command import READER_GONE, USER_ERROR
from tests.conftest import ROOT

PROGRAM = r"""
import os, sys
from dataclasses import dataclass
from data.cli.command import run_command
from data.base.errors import UserError
from data.base.progress import Progress

@dataclass(frozen=True)
class Options:
    'Words, and more.'
    lines: int = 1
    wrong: bool = False

def work(options):
    with Progress("work", options.lines, "lines") as progress:
        for line in range(options.lines):
            print("f\xfcr \udcff \ud800 \xb1", line)
            progress.update()
    print("M\xfcll \udcff", file=sys.stderr)
    if options.wrong:
        raise UserError("gr\xf6\xdfer \udcff")
    os.close(os.open("done", os.O_CREAT))

run_command(Options, work, prog="test")
"""

FULL = "error: standard output cannot be written (No space left on device): make room, or write it elsewhere\n"


def run(tmp_path: Path, redirection: str = "", arguments: str = "", **environment: str) -> tuple[int, str, str, bool]:
    """Status, output, errors without progress, and whether the work was done, of the program with this redirection of a shell."""
    (tmp_path / "done").unlink(missing_ok=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    command = f"{sys.executable} program.py {arguments} {redirection}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=60)
    said = "".join(line + "\n" for line in done.stderr.decode().splitlines() if not line.startswith("work: "))
    return done.returncode, done.stdout.decode(), said, (tmp_path / "done").exists()


@pytest.mark.long
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_readers_that_go_and_streams_that_take_nothing(tmp_path: Path, unbuffered: str) -> None:
    """Of more lines than a pipe holds, and of one, which is written when the program ends."""
    for lines in (1, 20_000):
        arguments = f"--lines {lines}"
        at_end = lines == 1 and not unbuffered
        note = "M\\xfcll \\udcff\n" if at_end else ""

        def ends(redirection: str, arguments: str = arguments) -> tuple[int, str, str, bool]:
            return run(tmp_path, redirection, arguments, PYTHONUNBUFFERED=unbuffered, PYTHONIOENCODING="ascii")

        assert ends("| true") == (141, "", note, at_end)
        assert ends("> /dev/full") == (2, "", note + FULL, at_end)
        assert ends(">&-") == (0, "", "M\\xfcll \\udcff\n", True)
        assert ends("2>&1 | true")[0] == 141
        # What cannot be said ends no work.
        for redirection in ("2> /dev/full > /dev/null", "2>&- > /dev/null", "2> >(true) > /dev/null", "<&- 2>&- >&-"):
            assert ends(redirection) == (0, "", "", True), redirection
            assert ends(redirection, f"{arguments} --wrong") == (2, "", "", False), redirection
    assert run(tmp_path, "| head -n 1", "--lines 20000", PYTHONUNBUFFERED=unbuffered)[1].count("\n") == 1
    assert run(tmp_path, "| true", "--help", PYTHONUNBUFFERED=unbuffered)[0] == 141
    assert run(tmp_path, "> /dev/full", "--help", PYTHONUNBUFFERED=unbuffered)[::2] == (2, FULL)


@pytest.mark.parametrize("arguments", ["--help", "--version"])
def test_what_answers_without_a_stage_keeps_to_the_same(arguments: str) -> None:
    command = f"{sys.executable} -m data {arguments}"
    for redirection, status, line in (
        ("| true", READER_GONE, ""),
        ("> /dev/full", USER_ERROR, FULL),
        (">&-", 0, ""),
    ):
        shell = ["bash", "-c", f"{command} {redirection}; exit ${{PIPESTATUS[0]}}"]
        done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (status, line), redirection


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "f\\xfcr \\udcff \\ud800 \\xb1 0\n"),
        ({"PYTHONIOENCODING": "utf-8"}, "f\u00fcr \\udcff \\ud800 \u00b1 0\n"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}, "f\\xfcr \\udcff \\ud800 \\xb1 0\n"),
    ],
)
def test_what_an_encoding_lacks_is_escaped(tmp_path: Path, environment: dict[str, str], line: str) -> None:
    assert run(tmp_path, **environment)[:2] == (0, line)
    status, output, _, done = run(tmp_path, "2>&1 > /dev/null", "--wrong", **environment)
    assert (status, done) == (2, False)
    assert output.splitlines()[-1].startswith("error: gr")


def test_a_line_of_an_error_stays_one_whatever_a_name_holds(tmp_path: Path) -> None:
    """An end of line, and what a terminal takes for a command."""
    missing = "no\nsuch\x1b[2J\r\u2028\x85file.yaml"
    status, _, said, done = run(tmp_path, f"--options {shlex.quote(missing)}")
    assert (status, done) == (2, False)
    line = r"no\nsuch\x1b[2J\r\u2028\x85file.yaml cannot be read: No such file or directory"
    assert said == f"error: --options {line}\n"


def test_a_file_opened_later_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """A library would print its messages into it."""
    program = (
        "import os; from data.base.streams import open_streams; open_streams(); file = os.open('file', os.O_CREAT | os.O_WRONLY); "
        "print('said'); os.write(1, b'said'); os.write(2, b'said'); os._exit(file)"
    )
    for redirection in (">&-", "2>&-", "<&- >&- 2>&-"):
        command = f'{sys.executable} -c "{program}" {redirection}'
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False, timeout=60)
        assert done.returncode > 2
        assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.long
def test_folders_whose_names_are_no_text(cache_path: Path, tmp_path: Path) -> None:
    """Everything that the stages read and write, in an encoding of the terminal that has none of it."""
    made, run, results, index, merged = (tmp_path / os.fsdecode(name) for name in (b"c\xe9", b"r\xfc", b"res\xff", b"i\xe9", b"m\xe9.h5"))
    shutil.copytree(cache_path, made)
    train = ("train_head", "--cache", made, "--out", run, "--head", "mean", "--epochs", "2", "--batch-size", "32")
    scored = ("--cache", made, "--run", run)
    commands: tuple[tuple[object, ...], ...] = (
        ("data.verify", made),
        ("data.sources", made),
        ("data.merge", made, merged),
        train,
        (*train, "--resume"),
        ("evaluate", *scored, "--out", results, "--candidates", "5", "--index", index),
        ("evaluate.compare", results, "--out", tmp_path / os.fsdecode(b"s\xfc")),
        ("search", *scored, "--candidates", "20", "caf\udce9", "--html", tmp_path / os.fsdecode(b"p\xe9.html")),
    )
    for command in commands:
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        done = subprocess.run([sys.executable, "-m", *map(str, command)], cwd=ROOT, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, (command, done.stderr.decode())
        assert (done.stdout + done.stderr).isascii()
    assert json.loads((results / "metrics.json").read_text(encoding="utf-8"))["run"] == str(run)
