"""Whether a file is what it was, without reading all of it."""

import hashlib
from pathlib import Path

DIGESTED = 2**16
"""Bytes that are read at each of three places. The headers and indices of containers stand in the first and the last of them."""


def file_digest(path: Path) -> str:
    """SHA-256 of the first, the middle and the last DIGESTED bytes, in hexadecimal; empty for what is no regular file.

    A copy of a file has that of the file, whenever it was made. Raises OSError where it cannot be read.
    """
    if not path.is_file():
        return ""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for place in (0, (size - DIGESTED) // 2, size - DIGESTED):
            file.seek(max(place, 0))
            sha.update(file.read(DIGESTED))
    return sha.hexdigest()
