"""Folders of results: which files in them are a command's own."""

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from data.base.errors import UserError
from data.base.writable import cannot_write, make_folder, require_writable_folder
from data.cli.options_file import OPTIONS_FILE
from evaluate.ranks import RANKS_FILES
from evaluate.report import PLOT_FILES, REPORT_FILE
from train_head.run import METRICS_FILE

EVALUATION = (METRICS_FILE, OPTIONS_FILE, *RANKS_FILES.values(), REPORT_FILE, *PLOT_FILES)
"""All that an evaluation writes, as patterns of names. Results without the first are not complete; only the report comes after it."""


def check_out(out: Path, own: Sequence[str]) -> None:
    """Raises UserError where OUT is no folder for such results: a file, a folder of others' files, or one where a folder has a file's name.

    `own`: patterns of the command's file names; a folder that holds the first of them is one of its results.
    """
    if out.is_dir():
        names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        others = [name for name in names if not _is_own(name, own)]
        if others and own[0] not in names:
            raise UserError(f"--out {out} holds other files, such as {others[0]}: name a folder for these results alone")
        for pattern in own:
            # Found only while the old files make way, these would have cost some of them.
            for path in out.glob(pattern):
                if path.is_dir():
                    raise UserError(f"{path} is a folder, and a file of results gets this name: move it away, or choose another --out")
        for above in sorted({(out / pattern).parent for pattern in own}):
            if os.path.lexists(above) and not above.is_dir():
                raise UserError(f"{above} is no folder, and a folder of results gets this name: move it away, or choose another --out")
            if above != out and above.is_dir():
                require_writable_folder(above)
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
    aside = new.with_suffix(".old")
    before: dict[Path, Path] = {}
    """Where the old files are while the new ones take their places, until all of these have."""
    placed: list[Path] = []
    """The new ones that have."""
    try:
        make_folder(new)
        yield new
        make_folder(aside)
        for path in [path for pattern in own for path in sorted(out.glob(pattern))]:
            moved = aside / path.relative_to(out)
            moved.parent.mkdir(exist_ok=True)
            path.rename(moved)
            before[path] = moved
        for path in sorted(new.iterdir(), key=lambda path: path.name == own[0]):
            path.rename(out / path.name)
            placed.append(out / path.name)
        before, placed = {}, []
    except OSError as error:
        raise cannot_write(out, error, "--out") from error
    except UserError as error:
        # The files as they would be called, and not as they were for a moment.
        raise UserError(str(error).replace(str(new), str(out)), error.listed, error.whole) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        # What cannot go back stays where it was put aside.
        with suppress(OSError):
            for path in placed:
                path.unlink()
            for path, moved in before.items():
                moved.rename(path)
            shutil.rmtree(aside, ignore_errors=True)


def _is_own(name: str, own: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern.split("/")[0]) for pattern in own)
