"""Read the rows of cached entries: one entry as an array, or many as ragged features, in memory or on disk.

Shape suffixes: T rows of all entries (frames or tokens), D joint dimension. Rows of patch tokens are [M, D].
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.cache.hdf5 import File, layout_of, open_file
from data.cache.index import Part, Place, runs
from data.cache.layout import ROWS, Images, Kind, feature_bytes, offsets_of
from data.store.path import StorePath
from data.store.rows import StoredRows

if TYPE_CHECKING:  # reading one entry needs no torch
    from data.cache.features import Ragged

DEFAULT_BUDGET = 2**30
"""Bytes of features that are loaded into memory if the caller names no budget."""
OPEN_PARTS = 128
"""Most files that one `Ragged` keeps open. Systems allow a process 256 or more."""


class OpenParts:
    """One dataset of many parts, whose files stay open for the next read: at most OPEN_PARTS, those read last.

    Closing a file makes HDF5 search all open objects. But patch tokens of a large data set are in more parts than a process may open.
    The first of `parts` are opened at once, so that they can be read after another process has pruned the cache.
    """

    def __init__(self, dataset: str, parts: Collection[Part]) -> None:
        self._dataset = dataset
        self._open: OrderedDict[Part, tuple[File, Any]] = OrderedDict()
        for part in islice(parts, OPEN_PARTS):
            self.of(part)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1][0].close()

    def of(self, part: Part) -> Any:
        """The dataset of a part, to be used before the next call."""
        if part not in self._open:
            while len(self._open) >= OPEN_PARTS:
                self._open.popitem(last=False)[1][0].close()
            file = open_file(part.path)
            self._open[part] = file, file[part.group][self._dataset]
        self._open.move_to_end(part)
        return self._open[part][1]


@dataclass(frozen=True)
class RowsOfPart:
    """The rows of a dataset of one part, as an array-like that is read on use."""

    opened: OpenParts
    part: Part

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all rows."""
        shape: tuple[int, ...] = self.opened.of(self.part).shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the file."""
        dtype: np.dtype[Any] = self.opened.of(self.part).dtype
        return dtype

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        values: NDArray[Any] = self.opened.of(self.part)[rows]
        return values


def one_row(place: Place) -> Place:
    """The place of an entry in a dataset with one row per entry."""
    return Place(place.part, place.entry, place.entry, place.entry + 1)


def read_rows(place: Place, dataset: str) -> NDArray[Any]:
    """The rows of one entry, in the dtype of the file."""
    with open_file(place.part.path) as file:
        rows: NDArray[Any] = file[place.part.group][dataset][place.start : place.stop]
    return rows


def read_images(place: Place, name: Images) -> list[bytes]:
    """The JPEG files of a video's frames; empty if images of this kind were not stored."""
    with open_file(place.part.path) as file:
        group = file[place.part.group]
        offsets = group[f"{name}_offsets"][place.start : place.stop + 1]
        content = group[name][offsets[0] : offsets[-1]].tobytes()
    files = [content[begin - offsets[0] : end - offsets[0]] for begin, end in pairwise(offsets)]
    return files if content else []


def iterate(kind: Kind, places: Mapping[str, Place], row_bytes: int) -> Iterator[tuple[str, NDArray[Any], NDArray[Any] | None]]:
    """Each entry's name, its rows [T, D] of `row_bytes` each, and its second array: seconds [T] of a video, the sentence [D] of a text,
    None with patch tokens. Part after part."""
    names = sorted(places, key=lambda name: places[name][:2])
    for part, group in groupby(names, key=lambda name: places[name].part):
        members = list(group)
        of_part = [places[name] for name in members]
        with open_file(part.path) as file:
            data = file[part.group]
            for run in runs(range(len(members)), of_part, row_bytes):
                first, last = of_part[run[0]], of_part[run[-1]]
                rows_TD = data[ROWS[kind][0]][first.start : last.stop]
                seconds_T = data["seconds"][first.start : last.stop] if kind == "videos" else None
                sentence_ND = data["sentence"][first.entry : last.entry + 1] if kind == "texts" else None
                for i in run:
                    place = of_part[i]
                    inside = slice(place.start - first.start, place.stop - first.start)
                    extra = None if seconds_T is None else seconds_T[inside]
                    yield members[i], rows_TD[inside], extra if sentence_ND is None else sentence_ND[place.entry - first.entry]


def read_ragged(
    dataset: str,
    places: Sequence[Place],
    chosen: Sequence[NDArray[np.int64]],
    memory_budget: int,
    settings: Mapping[str, Any],
    features_a_row: tuple[int, ...] = (),
) -> "Ragged":
    """The chosen rows of each entry, in order; on disk if they need more than `memory_budget` bytes.

    A row is a feature [D], or an array of features of shape `features_a_row` + [D].
    """
    from data.cache.features import Ragged

    count = np.array([len(rows) for rows in chosen], dtype=np.int64)
    row_bytes = prod(features_a_row) * feature_bytes(settings)
    if int(count.sum()) * row_bytes > memory_budget:
        of_part, close = _sources(dataset, {place.part for place in places})
        rows = [place.start + taken for place, taken in zip(places, chosen, strict=True)]
        return Ragged.on_disk([of_part[place.part] for place in places], rows, close)
    offsets = offsets_of(count)
    values_TD = np.empty((int(offsets[-1]), *features_a_row, int(settings["dimension"])), dtype=settings["dtype"])
    by_part: dict[Part, list[int]] = {}
    for i, place in enumerate(places):
        by_part.setdefault(place.part, []).append(i)
    for part, members in by_part.items():
        with open_file(part.path) as file:
            for run in runs(sorted(members, key=lambda i: places[i].start), places, row_bytes):
                first = places[run[0]].start
                rows_TD = file[part.group][dataset][first : max(places[i].stop for i in run)]
                for i in run:
                    values_TD[offsets[i] : offsets[i + 1]] = rows_TD[places[i].start - first + chosen[i]]
    return Ragged.in_memory(values_TD, offsets)


def _sources(dataset: str, parts: Collection[Part]) -> tuple[dict[Part, RowsOfPart | StoredRows], Callable[[], None]]:
    """The rows of a dataset of each part, read on use, and what closes their files. All parts of a cache are on this machine, or all in a
    store."""
    if all(isinstance(part.path, StorePath) for part in parts):
        return {part: stored_rows(part, dataset) for part in parts}, lambda: None
    opened = OpenParts(dataset, parts)
    return {part: RowsOfPart(opened, part) for part in parts}, opened.close


def stored_rows(part: Part, dataset: str) -> StoredRows:
    """The rows of a dataset of a part in a store."""
    assert isinstance(part.path, StorePath)
    with open_file(part.path) as file:
        return StoredRows(part.path, layout_of(file[part.group][dataset]))


def read_seconds(places: Sequence[Place], chosen: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
    """The times of the chosen frames of each video."""
    loaded: dict[Part, NDArray[np.float64]] = {}
    for part in {place.part for place in places}:
        with open_file(part.path) as file:
            loaded[part] = file[part.group]["seconds"][()]
    return [loaded[place.part][place.start + rows] for place, rows in zip(places, chosen, strict=True)]
