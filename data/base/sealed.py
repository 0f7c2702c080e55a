"""Files that are there whole or not at all, and that carry a checksum of themselves.

A sealed file begins with SEAL_BYTES that hold the SHA-256 of all that follows, padded with zeros. HDF5 leaves such a block at the beginning
of a file to its user, so a sealed HDF5 file opens as any other.
"""

import hashlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from data.base.errors import UserError, cannot_read

SEAL_BYTES = 512
_READ_BYTES = 2**22
_MARK = "sealed, sha256 of the bytes from 512 on: "

STALE_S = 86400.0
"""A temporary file as old as that belongs to nobody: its writer was killed."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; when the block is done, the file is synced and renamed. Raises UserError where the disk is full.

    A link stays one: the file that it leads to is written.
    """
    if os.path.islink(path):
        path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): make room or choose another place") from error
    finally:
        # On a read-only disk this fails, be the file there or not.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file whose first SEAL_BYTES are free for the seal."""
    sealed = memoryview(content)[SEAL_BYTES:]
    with written_whole(path) as temporary, temporary.open("wb") as file:
        file.write(_seal(hashlib.sha256(sealed).hexdigest()))
        file.write(sealed)


def seal(path: Path) -> None:
    """Seal a file that is written already, its first SEAL_BYTES being free."""
    with path.open("r+b") as file:
        digest = _digest(file)
        file.seek(0)
        file.write(_seal(digest))


def is_sound(path: Path) -> bool:
    """Whether not a byte of a sealed file differs from what was written. Raises UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(SEAL_BYTES) == _seal(_digest(file))
    except OSError as error:
        raise cannot_read(path, error) from error


def sweep(folder: Path) -> None:
    """Remove what killed writers left behind."""
    for temporary in folder.glob(".*.tmp"):
        if time.time() - temporary.stat().st_mtime > STALE_S:
            temporary.unlink(missing_ok=True)


def _digest(file: IO[bytes]) -> str:
    sha = hashlib.sha256()
    file.seek(SEAL_BYTES)
    while block := file.read(_READ_BYTES):
        sha.update(block)
    return sha.hexdigest()


def _seal(digest: str) -> bytes:
    return f"{_MARK}{digest}\n".encode().ljust(SEAL_BYTES, b"\0")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
