"""A cache of blocks on the local disk. It never takes more than its limit, however many processes share it.

Blocks are named by their SHA-256, so a block that changed on the disk is noticed, and caches that share blocks share files. fsspec's own
disk caches hold whole files or grow without a bound, and check nothing.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from data.base.errors import UserError
from data.base.progress import say
from data.base.whole_files import locked_folder

FOLDER_VARIABLE = "GLCCL_BLOCK_CACHE"
GIB_VARIABLE = "GLCCL_BLOCK_CACHE_GIB"
DEFAULT_GIB = 4.0
SPARE = 0.1
"""Fraction of the limit that is freed once it is reached, so that not every block has to search the folder."""
USED_FILE = "used"
"""Holds an upper bound of the bytes of all blocks."""


class DiskCache:
    """Blocks in a folder, at most `limit` bytes of them. The ones that were not read for the longest time are removed first."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    @classmethod
    def from_environment(cls) -> "DiskCache":
        """The cache that the environment names, or one in the user's folder of caches. Raises UserError if its size is no number."""
        given = os.environ.get(GIB_VARIABLE, str(DEFAULT_GIB))
        try:
            limit = int(float(given) * 2**30)
        except (ValueError, OverflowError):
            limit = -1
        if limit < 0:
            raise UserError(f"{GIB_VARIABLE}={given} must be a number of GiB, 0 for no cache on disk")
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return cls(Path(os.environ.get(FOLDER_VARIABLE) or os.path.join(home, "glccl", "blocks")), limit)

    def get(self, digest: bytes) -> bytes | None:
        """The block with this SHA-256; None if it is not here, or no longer as it was written."""
        path = self._path(digest)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content if hashlib.sha256(content).digest() == digest else None

    def keep(self, blocks: Mapping[bytes, bytes]) -> None:
        """Keep these blocks, by their SHA-256. On a disk that cannot be written, says so once and keeps nothing from then on."""
        fitting, room = {}, self.limit
        for digest, content in blocks.items():
            if len(content) <= room:
                fitting[digest], room = content, room - len(content)
        if not fitting:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked_folder(self.folder):
                self._write(fitting)
        except OSError as error:
            say(f"note: {self.folder} cannot be written ({error.strerror or error}): what is read from the store is not kept on this disk")
            self.limit = 0

    def _write(self, blocks: Mapping[bytes, bytes]) -> None:
        more = sum(map(len, blocks.values()))
        used = self._used()
        if used + more > self.limit:
            used = self._shrink(min(int((1 - SPARE) * self.limit), self.limit - more))
        # Before the blocks: a process that is killed here leaves a bound that is too high, never one that is too low.
        (self.folder / USED_FILE).write_text(str(used + more))
        for digest, content in blocks.items():
            path = self._path(digest)
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(content)
            temporary.replace(path)

    def _used(self) -> int:
        try:
            return int((self.folder / USED_FILE).read_text())
        except (OSError, ValueError):
            return self._shrink(self.limit)

    def _shrink(self, most: int) -> int:
        """Remove blocks until the rest take at most `most` bytes, and return how many they take."""
        found = []
        for path in self.folder.glob("??/*"):
            with suppress(OSError):
                details = path.stat()
                found.append((details.st_mtime_ns, details.st_size, path))
        used = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if used <= most:
                break
            path.unlink(missing_ok=True)
            used -= size
        return used

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.folder / name[:2] / name
