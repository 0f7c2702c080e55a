"""Atomic writes: each file is written under a temporary name beside its target, synced, and renamed."""

import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from data.base.errors import UserError

STALE_S = 86400.0
"""Seconds after which a temporary file is stale: its writer was killed."""

_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}
"""errno values of file systems that cannot sync a folder, and of folders that may not be listed."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file atomically: the block writes to the yielded temporary path, which is then synced and renamed to `path`.

    >>> with written_whole(Path("metrics.json")) as temporary:
    ...     temporary.write_text("{}")

    If `path` is a symbolic link, its target is replaced. Raises UserError if the disk is full.
    """
    if os.path.islink(path):
        path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): make room or choose another place") from error
    finally:
        # On a read-only disk this fails even if there is no file.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write bytes to a file atomically. Raises UserError if the disk is full."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically. Raises UserError if the disk is full.

    Bytes of file names that are not UTF-8 are written as escapes, which JSON reads back unchanged.
    """
    write_whole(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder during the block, so that of several processes one at a time reads a file in it and replaces it.

    Waits for the lock. Where folders cannot be opened or locked, the block runs without.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. Raises UserError if the disk is full."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove_stale(folder: Path) -> None:
    """Remove temporary files that killed writers left behind."""
    for temporary in folder.glob(".*.tmp"):
        if time.time() - temporary.stat().st_mtime > STALE_S:
            temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Sync a file or folder to the disk. Raises OSError if that fails."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a crash, if the file system can."""
    try:
        sync_file(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
