"""Files that carry a checksum of themselves.

A sealed file begins with SEAL_BYTES that hold the SHA-256 of all that follows, padded with zeros. HDF5 leaves such a block at the beginning
of a file to its user, so a sealed HDF5 file opens as any other.
"""

import hashlib
from pathlib import Path
from typing import IO

from data.base.errors import cannot_read
from data.base.whole_files import written_whole

SEAL_BYTES = 512
_READ_BYTES = 2**22
_MARK = "sealed, sha256 of the bytes from 512 on: "


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
    """Whether not a byte of a sealed file differs from what was written. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(SEAL_BYTES) == _seal(_digest(file))
    except OSError as error:
        raise cannot_read(path, error) from error


def _digest(file: IO[bytes]) -> str:
    sha = hashlib.sha256()
    file.seek(SEAL_BYTES)
    while block := file.read(_READ_BYTES):
        sha.update(block)
    return sha.hexdigest()


def _seal(digest: str) -> bytes:
    return f"{_MARK}{digest}\n".encode().ljust(SEAL_BYTES, b"\0")
