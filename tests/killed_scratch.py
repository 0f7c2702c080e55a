"""A process that is killed while it has a scratch folder."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PROGRAM = """
import os, signal, sys
from pathlib import Path
from data.base.scratch import scratch_folder

with scratch_folder(Path(sys.argv[1]), sys.argv[2]) as folder:
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_bytes(b"content")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_with_scratch(parent: Path, prefix: str) -> list[Path]:
    """The folders of that prefix that the process has left behind."""
    before = {*parent.glob(f"{prefix}*")}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(parent), prefix], cwd=ROOT, check=False)
    assert done.returncode < 0
    return [folder for folder in parent.glob(f"{prefix}*") if folder not in before]
