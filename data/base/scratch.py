"""Temporary folders beside a command's output. Those of a process that was killed are removed by the next one."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from data.base.whole_files import STALE_S

_LOCK = "lock"
"""A file in each folder. Its process holds a lock on it, which ends with the process, however that ends."""


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder in `parent`, and remove it after the block.

    >>> with scratch_folder(options.out, ".features-") as folder:
    ...     write_features(folder)
    """
    with TemporaryDirectory(dir=parent, prefix=prefix) as name:
        folder = Path(name)
        # Locked before it has its name, so that nobody finds it unlocked. Closed before the folder is removed: over NFS, an open file would
        # keep the folder.
        unlocked = folder / f"{_LOCK}.new"
        with unlocked.open("wb") as lock:
            # Where files cannot be locked, `remove_abandoned` cannot lock them either.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            unlocked.rename(folder / _LOCK)
            yield folder


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the folders of `scratch_folder` whose processes were killed, on this machine or another.

    A folder stays while its process lives, and where the file system cannot lock files. One without a lock, whose process may just have
    made it, is removed when it is stale.
    """
    for folder in parent.glob(f"{prefix}*"):
        if _is_abandoned(folder):
            # Another process may be removing it too.
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            return time.time() - folder.stat().st_mtime > STALE_S
        return False
    except OSError:
        return False
    return True
