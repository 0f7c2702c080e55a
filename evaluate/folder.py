"""The folder of results: which files in it are this stage's own."""

from pathlib import Path

from data.errors import UserError
from evaluate.ranks import RANKS_FILES

METRICS_FILE = "metrics.json"
OWN_FILES = (METRICS_FILE, *RANKS_FILES.values())
"""All that an evaluation writes. metrics.json is the last to be written: results without it are not complete."""


def check_out(out: Path) -> None:
    """Raises UserError where OUT is no folder for results: a file, or a folder of others' files."""
    if out.is_dir():
        names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        if names and METRICS_FILE not in names and not names <= set(OWN_FILES):
            raise UserError(f"--out {out} holds other files, such as {sorted(names - set(OWN_FILES))[0]}: name a folder of its own")
    elif out.exists():
        raise UserError(f"--out {out} is a file: name a folder")


def clear(out: Path) -> None:
    """Make the folder, or remove what an earlier evaluation wrote into it, so that files of two never stand together."""
    out.mkdir(parents=True, exist_ok=True)
    for name in OWN_FILES:
        (out / name).unlink(missing_ok=True)
