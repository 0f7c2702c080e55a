"""Commands under the name that they had before."""

import runpy
import sys


def run_moved(before: str, module: str) -> None:
    """Say the new name of a command on standard error, and run it with the same arguments."""
    print(f"python -m {before} is now python -m {module}", file=sys.stderr)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
