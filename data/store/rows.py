"""Rows of a dataset in a store, read as bytes from where HDF5 put them: no file has to stay open, and many are fetched together."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.store.blocks import Range
from data.store.path import StorePath

Rows = slice | NDArray[np.int64]
"""A slice, or ascending numbers of rows."""


class Layout(NamedTuple):
    """Where a file holds the rows of a dataset: in pieces of `rows_a_piece` rows, each in one range of bytes that starts at an offset."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows_a_piece: int
    offsets: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    def ranges(self) -> list[tuple[int, int]]:
        """The ranges of bytes of all pieces."""
        piece_bytes = self.rows_a_piece * self.row_bytes
        return [(offset, offset + piece_bytes) for offset in self.offsets]


@dataclass(frozen=True)
class StoredRows:
    """The rows of a dataset, as an array-like that is read on use."""

    path: StorePath
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all rows."""
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the file."""
        return self.layout.dtype

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        first, stop = _bounds(rows)
        # Not bytes: torch warns of arrays that cannot be written.
        content = bytearray().join(map(self.path.store.read, self.ranges(first, stop)))
        values = np.frombuffer(content, dtype=self.dtype).reshape(-1, *self.shape[1:])
        return values if isinstance(rows, slice) else values[rows - first]

    def ranges(self, first: int, stop: int) -> list[Range]:
        """The bytes of rows first:stop."""
        _, _, step, offsets = self.layout
        row_bytes = self.layout.row_bytes
        pieces = range(first // step, -(-stop // step)) if first < stop else range(0)
        found = []
        for piece in pieces:
            inside = max(first - piece * step, 0), min(stop - piece * step, step)
            found.append(Range(self.path.name, *(offsets[piece] + row * row_bytes for row in inside)))
        return found


class StoredArrays(Mapping[str, NDArray[Any]]):
    """Datasets by name, each of which is read when it is asked for."""

    def __init__(self, rows: Mapping[str, StoredRows]) -> None:
        self._rows = rows

    def __getitem__(self, name: str) -> NDArray[Any]:
        rows = self._rows[name]
        return rows[0 : rows.shape[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def fetch_rows(chosen: Iterable[tuple[Any, Rows]]) -> None:
    """Fetch the rows of datasets together, those that are `StoredRows`."""
    stored = [(source, rows) for source, rows in chosen if isinstance(source, StoredRows)]
    if stored:
        stored[0][0].path.store.fetch(one for source, rows in stored for one in source.ranges(*_bounds(rows)))


def _bounds(rows: Rows) -> tuple[int, int]:
    if isinstance(rows, slice):
        return rows.start, rows.stop
    return (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
