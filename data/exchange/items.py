"""What the readers of all forms share: an entry as its header describes it, and the checks of its arrays.

Shape suffixes: T rows of an entry (frames or tokens), D joint dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.quoting import quote
from data.cache.layout import Kind, all_finite

ROWS: dict[Kind, str] = {"videos": "frames", "texts": "words"}
EXTRA: dict[Kind, str] = {"videos": "seconds", "texts": "sentence"}
FLOATS = ("float16", "float32", "float64")


class Loaded(NamedTuple):
    """The arrays of an entry: frames [T, D] and seconds [T], or words [T, D] and the sentence [D].

    Without times, `extra` of a video is None. A text without tokens has no rows.
    """

    rows_TD: NDArray[Any]
    extra: NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class Item:
    """An entry as its header describes it, before its features are read.

    name: the id of a video, or a text.
    place: the file, and the place in it, for errors.
    shape: of the features; () if only reading tells.
    size, mtime_ns, path: of its file.
    key: how the reader finds it again.
    """

    name: str
    place: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int
    mtime_ns: int
    path: Path
    key: Any


class Reader(Protocol):
    """Reads one form. `items` come from headers alone; `read` gives the features of some, in their order."""

    items: list[Item]

    def read(self, items: Sequence[Item]) -> Iterator[Loaded]:
        """The arrays of these items. Raises UserError if a file is damaged."""

    def left_alone(self) -> dict[str, int]:
        """Counts of files that hold no features, by suffix."""


def require_features(shape: tuple[int, ...], dtype: np.dtype[Any], kind: Kind, place: str) -> None:
    """Raise UserError if a header does not describe features: floating-point, [T, D] (or [D] for a sentence alone), not empty."""
    what = ROWS[kind]
    if dtype.kind == "O":
        raise UserError(f"{place}: {what} are pickled Python objects, which are never loaded: save them as an array of floats")
    if dtype.name not in FLOATS:
        raise UserError(f"{place}: {what} are {dtype.name}, not features: save them as float16 or float32")
    single = kind == "texts" and len(shape) == 1
    if len(shape) != 2 and not single:
        wanted = "[frames, dimension]" if kind == "videos" else "[tokens, dimension], or [dimension] for the sentence alone"
        raise UserError(f"{place}: {what} have the shape {list(shape)}: expected {wanted}")
    if 0 in shape:
        raise UserError(f"{place}: {what} have the shape {list(shape)}, which holds nothing: leave it out")


def require_sound(loaded: Loaded, kind: Kind, dimension: int, place: str) -> None:
    """Raise UserError if arrays hold NaN or infinity, differ in width, or if the numbers of frames and times differ."""
    rows_TD, extra = loaded
    require_width(rows_TD.shape[1], dimension, place)
    if not all_finite(rows_TD):
        row = int(np.flatnonzero(~np.isfinite(rows_TD).all(axis=1))[0])
        raise UserError(f"{place}: {ROWS[kind]} hold NaN or infinity, first in row {row}: compute them again, or leave it out")
    if extra is None:
        return
    if kind == "texts":
        if extra.shape != (dimension,):
            raise UserError(f"{place}: the sentence has the shape {list(extra.shape)}: expected [{dimension}]")
        if not all_finite(extra):
            raise UserError(f"{place}: the sentence holds NaN or infinity: compute it again, or leave it out")
        return
    if extra.shape != (len(rows_TD),):
        raise UserError(f"{place}: {len(rows_TD)} frames and seconds of shape {list(extra.shape)}: give one time for each frame")
    if not np.isfinite(extra).all() or (extra < 0).any() or (np.diff(extra) < 0).any():
        raise UserError(f"{place}: seconds must be finite, 0 or more, and ascending")


def require_width(found: int, dimension: int, place: str) -> None:
    """Raise UserError if features are not D wide."""
    if found != dimension:
        raise UserError(f"{place}: features are {found} wide, the others {dimension}: import features of one encoder into one cache")


def require_unique(items: Sequence[Item]) -> None:
    """Raise UserError, naming both places, if two items have one name."""
    first: dict[str, str] = {}
    for item in items:
        if first.setdefault(item.name, item.place) != item.place:
            raise UserError(f"{quote(item.name)} is there twice, {first[item.name]} and {item.place}: keep one of them")


def seconds_or_none(array: NDArray[Any] | None, kind: Kind, place: str) -> NDArray[Any] | None:
    """The second array of an entry, checked for its dtype."""
    if array is None:
        return None
    if array.dtype.kind not in ("iuf" if kind == "videos" else "f"):
        raise UserError(f"{place}: {EXTRA[kind]} are {array.dtype.name}: save them as numbers")
    return array.astype(np.float64) if kind == "videos" else array


def loaded_of(rows: NDArray[Any], extra: NDArray[Any] | None, kind: Kind, place: str) -> Loaded:
    """The arrays of an entry, as read. One row of a text's features is its sentence alone."""
    if kind == "texts" and rows.ndim == 1:
        return Loaded(np.empty((0, len(rows)), dtype=rows.dtype), rows)
    return Loaded(rows, seconds_or_none(extra, kind, place))
