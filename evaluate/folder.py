"""Folders of results: which files in them are a command's own."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from data.errors import UserError
from data.options_file import OPTIONS_FILE
from evaluate.ranks import RANKS_FILES
from evaluate.report import PLOT_FILES, REPORT_FILE
from train_head.run import METRICS_FILE

EVALUATION = (METRICS_FILE, OPTIONS_FILE, *RANKS_FILES.values(), REPORT_FILE, *PLOT_FILES)
"""All that an evaluation writes, as patterns of names. Results without the first are not complete; only the report comes after it."""


def check_out(out: Path, own: Sequence[str]) -> None:
    """Raises UserError where OUT is no folder for such results: a file, or a folder of others' files.

    `own`: patterns of the command's file names; a folder that holds the first of them is one of its results.
    """
    if out.is_dir():
        names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        others = [name for name in names if not _is_own(name, own)]
        if others and own[0] not in names:
            raise UserError(f"--out {out} holds other files, such as {others[0]}: name a folder for these results alone")
    elif out.exists():
        raise UserError(f"--out {out} is a file: name a folder")


def clear(out: Path, own: Sequence[str]) -> None:
    """Make the folder, or remove what the command wrote into it before, so that files of two runs never stand together.

    What else a user has put beside results is left alone.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in [path for pattern in own for path in sorted(out.glob(pattern))]:
        path.unlink()


def _is_own(name: str, own: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern.split("/")[0]) for pattern in own)
