"""Folders of results: which files in them are a command's own."""

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from data.errors import UserError
from data.options_file import OPTIONS_FILE
from data.writable import cannot_write, make_folder
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


@contextmanager
def replacing(out: Path, own: Sequence[str]) -> Iterator[Path]:
    """A new folder to write files into, which then take the place of what the command wrote into OUT before.

    So files of two runs never stand together, and what was there stays where the new files cannot all be written. The first of `own` is
    moved last. What else a user has put beside results is left alone.
    """
    make_folder(out)
    new = out / f".{platform.node()}.{os.getpid()}.new"
    try:
        make_folder(new)
        yield new
        for path in [path for pattern in own for path in sorted(out.glob(pattern))]:
            path.unlink()
        for path in sorted(new.iterdir(), key=lambda path: path.name == own[0]):
            path.rename(out / path.name)
    except OSError as error:
        raise cannot_write(out, error, "--out") from error
    except UserError as error:
        # The files as they would be called, and not as they were for a moment.
        raise UserError(str(error).replace(str(new), str(out)), error.listed) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _is_own(name: str, own: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern.split("/")[0]) for pattern in own)
