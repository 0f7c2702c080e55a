"""Runs the commands as users do."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu.options import ROOT

Word = str | int | float | Path


def python(*words: Word) -> list[str]:
    """The command `python -m ...` as a list."""
    return [sys.executable, "-m", *map(str, words)]


def ended(*words: Word, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m ...` to its end, whatever its status. Lines of its output are also in the step's log."""
    done = subprocess.run(python(*words), cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    print(f"$ python -m {' '.join(map(str, words))}", done.stdout, done.stderr, sep="\n", flush=True)
    return done


def run(*words: Word, environment: Mapping[str, str] | None = None) -> None:
    """Run `python -m ...`. Raises RuntimeError, with the last line on its stderr, if it does not exit with status 0."""
    done = ended(*words, environment=environment)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing on stderr"]
        raise RuntimeError(f"python -m {words[0]} exits with status {done.returncode}: {said[-1]}")
