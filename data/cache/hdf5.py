"""Read HDF5 files without locks, build them in memory, and append to them. The only file that imports h5py."""

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError, not_as_written, one_line
from data.base.quoting import quote
from data.base.sealed import SEAL_BYTES
from data.compute.memory import exhausted
from data.store.path import CachePath, StorePath
from data.store.rows import Layout, StoredArrays, StoredRows

if TYPE_CHECKING:
    from typing_extensions import Buffer

Group: TypeAlias = h5py.Group
"""A group of an HDF5 file, or the file itself."""
File: TypeAlias = h5py.File

CHUNK_BYTES = 2**20
"""Bytes of a chunk of a dataset that grows: reading a single entry reads little more than that entry."""


def open_file(path: CachePath) -> h5py.File:
    """Open a file for reading. Raises UserError if it is damaged or cannot be read.

    Close a file of a store before the program ends: HDF5 crashes if it closes one after Python.
    """
    # No locks: files are complete when they appear and never change. A decoder started while the file is open would inherit the
    # lock and keep it, and some network file systems do not support locks.
    if not path.exists():
        raise UserError(f"{path} is gone: the cache was pruned or repaired since it was opened; start again")
    try:
        return h5py.File(path.open_for_hdf5(), "r") if isinstance(path, StorePath) else h5py.File(path, "r", locking=False)
    except OSError as error:
        raise damaged_file(path, error) from error


@contextmanager
def new_file(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create a file that will be sealed. Yields it, and a check that raises OSError if a write to disk has failed so far.

    The check runs once more at the end. Between checks, data that could not be written is held in memory.
    """
    with _Disk(path) as disk:
        with h5py.File(disk, "w", userblock_size=SEAL_BYTES) as file:
            yield file, disk.check
        disk.check()


class _Disk(io.RawIOBase):
    """A file whose writes never fail, for h5py to write to. HDF5 cannot close a file when the disk is full, and crashes; here the first
    error is kept for `check`, and later data stays in memory."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._place = self._size = 0
        self._error: OSError | None = None
        self._held: list[tuple[int, bytes]] = []
        """Offset and bytes of each write since the disk failed."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._handle)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def check(self) -> None:
        """Raise the disk's error, if any."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def write(self, data: "Buffer") -> int:
        view = memoryview(data).cast("B")
        if self._error is None:
            try:
                done = 0
                while done < len(view):
                    done += os.pwrite(self._handle, view[done:], self._place + done)
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._held.append((self._place, bytes(view)))
        self._place += len(view)
        self._size = max(self._size, self._place)
        return len(view)

    def readinto(self, buffer: "Buffer") -> int:
        view = memoryview(buffer).cast("B")
        count = max(min(len(view), self._size - self._place), 0)
        stored = os.pread(self._handle, count, self._place)
        view[:count] = stored + bytes(count - len(stored))
        for start, held in self._held:
            first, last = max(start, self._place), min(start + len(held), self._place + count)
            if first < last:
                view[first - self._place : last - self._place] = held[first - start : last - start]
        self._place += count
        return count

    def truncate(self, size: int | None = None) -> int:
        self._size = self._place if size is None else size
        if self._error is None:
            try:
                os.ftruncate(self._handle, self._size)
            except OSError as error:
                self._error = error
        return self._size


def file_bytes(fill: Callable[[Group], None]) -> bytes:
    """Build an HDF5 file in memory and return its bytes, so that HDF5 itself never meets a full disk."""
    content = io.BytesIO()
    with h5py.File(content, "w", userblock_size=SEAL_BYTES) as file:
        fill(file)
    # Not getbuffer(): an exception may keep the view alive after Python has freed the object, and Python crashes.
    return content.getvalue()


def write_arrays(group: Group, arrays: Mapping[str, Any]) -> None:
    """Write each array as a dataset. A list is a dataset of strings."""
    for name, value in arrays.items():
        if not isinstance(value, list):
            group.create_dataset(name, data=value)
        elif any(value):
            group.create_dataset(name, data=value, dtype=h5py.string_dtype())
        else:
            # Empty strings are HDF5's fill value. Writing them takes as long as other strings.
            group.create_dataset(name, shape=len(value), dtype=h5py.string_dtype())


def read_arrays(group: Group) -> dict[str, NDArray[Any]]:
    """The datasets of a group, without its subgroups."""
    return {name: item[()] for name, item in group.items() if isinstance(item, h5py.Dataset)}


def stored_arrays(group: Group, path: StorePath) -> StoredArrays:
    """The datasets of a group of a file in a store, each of which is read when it is asked for."""
    found = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}
    return StoredArrays({name: StoredRows(path, layout_of(dataset)) for name, dataset in found.items()})


def append(group: Group, name: str, rows: NDArray[Any]) -> None:
    """Append rows to a dataset of a file that is being written, creating the dataset if needed."""
    if name not in group:
        dtype = h5py.string_dtype() if rows.dtype.kind in "OU" else rows.dtype
        row_bytes = max(rows.dtype.itemsize * int(np.prod(rows.shape[1:])), 1)
        chunk = (max(1, CHUNK_BYTES // row_bytes), *rows.shape[1:])
        group.create_dataset(name, shape=(0, *rows.shape[1:]), maxshape=(None, *rows.shape[1:]), dtype=dtype, chunks=chunk)
    dataset = group[name]
    dataset.resize(len(dataset) + len(rows), axis=0)
    if len(rows):
        dataset[len(dataset) - len(rows) :] = rows


def damaged_file(path: CachePath, error: Exception) -> UserError:
    """The error for a file that is damaged or cannot be read."""
    if exhausted(error) is not None:
        # A damaged length asks for too much memory as well.
        line = f"{path} cannot be read ({one_line(error)}): end other programs that use memory"
        return UserError(f"{line}; if there is enough, the file is damaged: run extract again, which repairs the cache")
    return not_as_written(path, error, f"{path} is damaged ({error}): run extract again, which repairs the cache")


def layout_of(dataset: Any) -> Layout:
    """The layout of a dataset of numbers, in one range or in chunks of whole rows: as `write_arrays` or `append` writes it."""
    shape, dtype = dataset.shape, dataset.dtype
    if dataset.chunks is None:
        return Layout(shape, dtype, shape[0], (dataset.id.get_offset(),) if dataset.size else ())
    assert dataset.chunks[1:] == shape[1:]
    assert not dataset.id.get_create_plist().get_nfilters()
    chunks = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
    offsets = {chunk.chunk_offset[0]: chunk.byte_offset for chunk in chunks}
    return Layout(shape, dtype, dataset.chunks[0], tuple(offsets[first] for first in sorted(offsets)))


def open_foreign(path: Path) -> h5py.File:
    """Open a file that this program did not write, for reading. Raises OSError if it is damaged."""
    return h5py.File(path, "r", locking=False)


def datasets_of(file: Group) -> dict[str, Any]:
    """Every dataset of a file by its path, in order of the names, under each of its names. Raises UserError for a link to another file."""
    names: list[str] = []
    # h5py ends with a SystemError if the callback raises.
    file.visit_links(names.append)
    found: dict[str, Any] = {}
    for name in names:
        link = file.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            other = quote(link.filename)
            raise UserError(f"{file.file.filename}, {quote(name)}: links to another file, {other}: copy the features into one file")
        item = file.get(name)
        if item is None and isinstance(link, h5py.SoftLink):
            raise UserError(f"{file.file.filename}, {quote(name)}: links to {quote(link.path)}, which is not there: remove the link")
        item = file[name] if item is None else item
        if isinstance(item, h5py.Dataset):
            found[name] = item
    return found


def strings_of(dataset: Any, place: str) -> Any:
    """The strings of a dataset: one, or an array. Raises UserError if it does not hold UTF-8."""
    try:
        return dataset.asstr("utf-8")[()]
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: is not text in UTF-8: save it as strings") from error


def own_group(file: Group, name: str) -> Group | None:
    """The group of this name in the file itself; None if there is none, or if it is a link to another file."""
    link = file.get(name, getlink=True)
    group = None if link is None or isinstance(link, h5py.ExternalLink) else file.get(name)
    return group if isinstance(group, h5py.Group) else None
