"""Result folders: which files belong to a command, and how it replaces them all at once."""

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

EVALUATION_PATTERNS = (METRICS_FILE, OPTIONS_FILE, *RANKS_FILES.values(), REPORT_FILE, *PLOT_FILES)
"""Glob patterns of the files that an evaluation writes. Results without the first are incomplete; only the report is written after it."""


def check_out(out: Path, own: Sequence[str]) -> None:
    """Raise UserError if OUT cannot hold the results: it is a file, it holds foreign files, or a folder has the name of a result file.

    `own`: glob patterns of the command's files. A folder that holds the first of them already holds its results.
    """
    if out.is_dir():
        names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        others = [name for name in names if not _is_own(name, own)]
        if others and own[0] not in names:
            raise UserError(f"--out {out} holds other files, such as {others[0]}: name a folder for these results alone")
        for pattern in own:
            # Checked before any old file moves, so that a refusal loses nothing.
            for path in out.glob(pattern):
                if path.is_dir():
                    raise UserError(f"{path} is a folder, but a result file needs this name: move it away, or choose another --out")
        for above in sorted({(out / pattern).parent for pattern in own}):
            if os.path.lexists(above) and not above.is_dir():
                raise UserError(f"{above} is not a folder, but a result folder needs this name: move it away, or choose another --out")
            if above != out and above.is_dir():
                require_writable_folder(above)
    elif out.exists():
        raise UserError(f"--out {out} is a file: name a folder")


@contextmanager
def replacing(out: Path, own: Sequence[str]) -> Iterator[Path]:
    """Yield a new folder; when the block ends, its files replace the command's earlier files in OUT.

    Files of two runs are never mixed: if a new file cannot be written, all old files stay. The file that `own` lists first is
    moved last. Other files in OUT are left alone.

        with replacing(out, EVALUATION_PATTERNS) as new:
            write_json(new / METRICS_FILE, result)
    """
    make_folder(out)
    new = out / f".{platform.node()}.{os.getpid()}.new"
    aside = new.with_suffix(".old")
    before: dict[Path, Path] = {}
    """Old files and where they were put aside; emptied once all new files are in place."""
    placed: list[Path] = []
    """New files that are in place."""
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
        # Name the files by their final paths, not by the temporary ones.
        raise UserError(str(error).replace(str(new), str(out)), error.listed, error.whole) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        # Files that cannot be moved back stay where they were put aside.
        with suppress(OSError):
            for path in placed:
                path.unlink()
            for path, moved in before.items():
                moved.rename(path)
            shutil.rmtree(aside, ignore_errors=True)


def _is_own(name: str, own: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern.split("/")[0]) for pattern in own)
