"""Keep commands working under their old names."""

import runpy
import sys


def run_moved(before: str, module: str) -> None:
    """Print the new name of a command to standard error, and run the command with the same arguments."""
    print(f"python -m {before} is now python -m {module}", file=sys.stderr)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
