"""Commands as the shell runs them."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def stage(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A stage as the shell runs it."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ
    )
