"""Where every entry of a cache lies among its parts.

Of several entries of one name the one written last counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.cache.hdf5 import Group, damaged, open_file
from data.cache.layout import IMAGES, NAMES, UNKNOWN, Images, Kind

READ_BYTES = 2**24
"""Rows of a part are read in pieces of so many bytes."""


class Part(NamedTuple):
    """A part: a file and the group in it, which is the root unless the file was merged."""

    path: Path
    group: str


class Place(NamedTuple):
    """Where an entry lies: its part, its row among the entries, its rows among frames or tokens."""

    part: Part
    entry: int
    start: int
    stop: int


class Source(NamedTuple):
    """What an entry of a video was made from: the file as it was, and the part of it in seconds."""

    file_size: int
    file_mtime_ns: int
    file_digest: str
    start: float
    end: float


@dataclass
class Index:
    """Where every entry of a kind lies, and when it was written; of videos also what they were made from and the images there."""

    places: dict[str, Place] = field(default_factory=dict)
    written_ns: dict[str, int] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    images: dict[str, frozenset[Images]] = field(default_factory=dict)

    def add(self, kind: Kind, part: Part, digest: str) -> None:
        """Take in the entries of a part. Raises UserError where it is damaged, or its settings have not this digest."""
        with open_file(part.path) as file:
            try:
                group = file[part.group]
                if group.attrs.get("digest") != digest:
                    raise UserError(f"{part.path} was made with other settings than the cache: move it out of the cache")
                names, offsets, written_ns = group[NAMES[kind]].asstr()[()], group["offsets"][()], int(group.attrs["written_ns"])
                if kind == "videos":
                    columns = [read_column(group, column, len(names)).tolist() for column in Source._fields]
                    sources = [Source(*values) for values in zip(*columns, strict=True)]
                    images = _images_there(group, offsets)
            except (KeyError, OSError, RuntimeError, AttributeError) as error:
                raise damaged(part.path, error) from error
        # Plain numbers and few lookups: a large cache has a hundred thousand entries.
        bounds = pairwise(offsets.tolist())
        for entry, (name, (start, stop)) in enumerate(zip(names.tolist(), bounds, strict=True)):
            if written_ns >= self.written_ns.get(name, 0):
                self.written_ns[name] = written_ns
                self.places[name] = Place(part, entry, start, stop)
                if kind == "videos":
                    self.sources[name], self.images[name] = sources[entry], images[entry]


def runs(members: Sequence[int], places: Sequence[Place], row_bytes: int) -> Iterator[list[int]]:
    """These entries of a part, in the order of their rows, cut where READ_BYTES of rows are full: a part is never in memory whole."""
    run: list[int] = []
    for i in members:
        if run and (places[i].stop - places[run[0]].start) * row_bytes > READ_BYTES:
            yield run
            run = []
        run.append(i)
    yield run


def read_column(group: Group, name: str, count: int) -> NDArray[Any]:
    """A dataset with a row for each of `count` entries, texts as str; of an older part that lacks it, what stands for the unknown."""
    if name not in group and name in UNKNOWN:
        return np.full(count, UNKNOWN[name])
    dataset = group[name]
    column: NDArray[Any] = (dataset.asstr() if dataset.dtype == object else dataset)[()]
    return column


def names_in(part: Path) -> list[str]:
    """The ids of the videos of a part."""
    with open_file(part) as file:
        return list(file[NAMES["videos"]].asstr()[()])


def _images_there(group: Group, offsets: NDArray[np.int64]) -> list[frozenset[Images]]:
    """Of every video of a part, the kinds of images that are there of its frames."""
    begins = {name: group[f"{name}_offsets"][()] for name in IMAGES["videos"]}
    there = {name: begin[offsets[1:]] > begin[offsets[:-1]] for name, begin in begins.items()}
    kinds = {flags: frozenset(compress(there, flags)) for flags in product((False, True), repeat=len(there))}
    return [kinds[flags] for flags in zip(*(flag_N.tolist() for flag_N in there.values()), strict=True)]
