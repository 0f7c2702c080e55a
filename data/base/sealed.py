"""Sealed files: files that contain their own checksum.

The first SEAL_BYTES of a sealed file hold the SHA-256 of the rest, padded with zeros. HDF5 reserves such a user block at the start of a
file, so a sealed HDF5 file opens like any other.
"""

import hashlib
from io import BufferedRandom, BufferedReader
from pathlib import Path

from data.base.errors import cannot_read
from data.base.whole_files import written_whole

SEAL_BYTES = 512
_READ_BYTES = 2**18
_MARK = "sealed, sha256 of the bytes from 512 on: "


def write_sealed(path: Path, content: bytes) -> None:
    """Write `content`, whose first SEAL_BYTES are a placeholder, with its seal."""
    sealed = memoryview(content)[SEAL_BYTES:]
    with written_whole(path) as temporary, temporary.open("wb") as file:
        file.write(_seal(hashlib.sha256(sealed).hexdigest()))
        file.write(sealed)


def seal(path: Path) -> None:
    """Seal an existing file, whose first SEAL_BYTES are a placeholder."""
    with path.open("r+b") as file:
        digest = _digest(file)
        file.seek(0)
        file.write(_seal(digest))


def is_sound(path: Path) -> bool:
    """Whether a sealed file matches its checksum. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(SEAL_BYTES) == _seal(_digest(file))
    except OSError as error:
        raise cannot_read(path, error) from error


def read_seal(path: Path) -> str:
    """The checksum that a sealed file holds, in hexadecimal digits. It identifies the contents of a sound file."""
    try:
        with path.open("rb") as file:
            return file.read(SEAL_BYTES).rstrip(b"\0").decode("ascii", "replace").removeprefix(_MARK).strip()
    except OSError as error:
        raise cannot_read(path, error) from error


def _digest(file: BufferedReader | BufferedRandom) -> str:
    sha = hashlib.sha256()
    file.seek(SEAL_BYTES)
    # One small buffer, which stays in the processor's cache.
    buffer = bytearray(_READ_BYTES)
    while count := file.readinto(buffer):
        sha.update(memoryview(buffer)[:count])
    return sha.hexdigest()


def _seal(digest: str) -> bytes:
    return f"{_MARK}{digest}\n".encode().ljust(SEAL_BYTES, b"\0")
