"""HDF5 files: opened without locks, made in memory, added to. The only file that imports h5py."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from data.sealed import SEAL_BYTES

Group: TypeAlias = h5py.Group
"""A file is a group too."""


def open_file(path: Path) -> h5py.File:
    """Open a file for reading. Raises UserError where it is damaged."""
    # No locks: a file that is there is complete and never changes. A lock would be kept alive by a decoder that is being started
    # while the file is open, and some network file systems have none.
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise damaged(path, error) from error


def new_file(path: Path) -> h5py.File:
    """A file to be written and then sealed."""
    return h5py.File(path, "w", userblock_size=SEAL_BYTES)


def in_memory(fill: Callable[[Group], None]) -> bytes:
    """The bytes of a file made in memory: the library is never left with a file that the disk has no room for."""
    content = io.BytesIO()
    with h5py.File(content, "w", userblock_size=SEAL_BYTES) as file:
        fill(file)
    # Not its buffer: Python may free the object before a view of it that an exception keeps, and crash.
    return content.getvalue()


def write_arrays(group: Group, arrays: Mapping[str, Any]) -> None:
    """A dataset for each array; a list is one of texts."""
    for name, value in arrays.items():
        group.create_dataset(name, data=value, dtype=h5py.string_dtype() if isinstance(value, list) else None)


def read_arrays(group: Group) -> dict[str, NDArray[Any]]:
    """The datasets of a group, its subgroups left out."""
    return {name: item[()] for name, item in group.items() if isinstance(item, h5py.Dataset)}


def append(group: Group, name: str, rows: NDArray[Any]) -> None:
    """Add rows to a dataset of a file that is being written, which grows with them."""
    if name not in group:
        dtype = h5py.string_dtype() if rows.dtype.kind in "OU" else rows.dtype
        # Pieces of about a MiB: read alone, an entry costs little more than itself.
        row_bytes = max(rows.dtype.itemsize * int(np.prod(rows.shape[1:])), 1)
        chunk = (max(1, 2**20 // row_bytes), *rows.shape[1:])
        group.create_dataset(name, shape=(0, *rows.shape[1:]), maxshape=(None, *rows.shape[1:]), dtype=dtype, chunks=chunk)
    dataset = group[name]
    dataset.resize(len(dataset) + len(rows), axis=0)
    if len(rows):
        dataset[len(dataset) - len(rows) :] = rows


def damaged(path: Path, error: Exception) -> UserError:
    """The error for a file that cannot be read."""
    return UserError(f"{path} is damaged or cannot be read ({error}): run extract again, which repairs the cache")
