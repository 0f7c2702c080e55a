"""Files that are there whole or not at all: each is written beside its place, synced, and renamed into it."""

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.base.errors import UserError

STALE_S = 86400.0
"""A temporary file as old as that belongs to nobody: its writer was killed."""

_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}
"""Errors by which some file systems, and folders that may not be listed, refuse to sync a folder."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; when the block is done, the file is synced and renamed. Raises UserError if the disk is full.

    A link stays one: the file that it leads to is written.
    """
    if os.path.islink(path):
        path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): make room or choose another place") from error
    finally:
        # On a read-only disk this fails, be the file there or not.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises UserError if the disk is full."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all. Raises UserError if the disk is full.

    A byte of a file name that is not UTF-8 is written as its escape, which JSON reads back as it was.
    """
    write_whole(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all. Raises UserError if the disk is full."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove_stale(folder: Path) -> None:
    """Remove what killed writers left behind."""
    for temporary in folder.glob(".*.tmp"):
        if time.time() - temporary.stat().st_mtime > STALE_S:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the new name of a file last, where the file system can."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
