"""Paths of the files of a published cache, with those methods of pathlib that read."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from data.store.address import address_of, only_read
from data.store.blocks import Range
from data.store.store import Store

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True, order=True)
class StorePath:
    """A file of a published cache; the folder itself if the name is empty."""

    store: Store = field(compare=False, repr=False)
    name: str = ""

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(self.store, name)

    def __str__(self) -> str:
        return f"{self.store.address}/{self.name}".rstrip("/")

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return self.store.manifest.files[self.name].size

    def is_file(self) -> bool:
        """Whether there is a file of this name."""
        return self.name in self.store.manifest.files

    def exists(self) -> bool:
        """Whether this is the folder, or a file in it."""
        return not self.name or self.is_file()

    def glob(self, pattern: str) -> Iterator["StorePath"]:
        """The files in the folder whose names match."""
        return (self / name for name in self.store.manifest.files if fnmatchcase(name, pattern))

    def with_name(self, name: str) -> "StorePath":
        """The file of another name beside this one."""
        return StorePath(self.store, name)

    def read_bytes(self) -> bytes:
        """The whole file. Raises FileNotFoundError if it was not published, and UserError as `Store.read` does."""
        if not self.is_file():
            raise FileNotFoundError(str(self))
        return self.store.read(Range(self.name, 0, self.size))

    def open_for_hdf5(self) -> io.RawIOBase:
        """The file as an object for h5py to read from."""
        return _Reader(self)


CachePath: TypeAlias = Path | StorePath
"""A cache or one of its files, on this machine or in a store."""


def located(path: Path | str | StorePath) -> CachePath:
    """The cache at a path or address: a folder, or a merged file. Raises UserError if the store cannot be reached or has no cache."""
    if isinstance(path, StorePath):
        return path
    address = address_of(path)
    if address is None:
        return Path(path)
    store = Store(address)
    return StorePath(store, store.manifest.merged)


def local(path: CachePath, option: str = "--cache") -> Path:
    """The path, if it is on this machine. Raises UserError if it is in a store."""
    if isinstance(path, StorePath):
        raise only_read(path, option)
    return path


def named(path: CachePath) -> Path:
    """The path, or for a store a path that prints as its address."""
    return _Address(path.store.address) if isinstance(path, StorePath) else path


def fetch_opening(cache: CachePath, patches: bool = False) -> None:
    """Fetch together what opening a cache in a store reads of its parts and tables; with `patches`, of the parts of patch tokens."""
    if isinstance(cache, StorePath):
        cache.store.fetch_opening([name for name in cache.store.manifest.files if name.startswith("patches-") == patches])


class _Address(type(Path())):  # type: ignore[misc]
    """An address as a path, for options and messages. `located` opens it."""

    def __str__(self) -> str:
        collapsed = super().__str__()
        return address_of(collapsed) or collapsed


class _Reader(io.RawIOBase):
    """A file of a store, read in blocks."""

    def __init__(self, path: StorePath) -> None:
        self._path, self._place = path, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._path.size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: "Buffer") -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._place + len(view), self._path.size)
        content = self._path.store.read(Range(self._path.name, self._place, stop)) if self._place < stop else b""
        view[: len(content)] = content
        self._place += len(content)
        return len(content)
