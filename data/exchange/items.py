"""What the readers of all forms share: an entry as its header describes it, and the checks of its arrays.

Shape suffixes: T rows of an entry (frames or tokens), R rows of several, D joint dimension. Rows of patch tokens are [M, D].
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.quoting import quote
from data.cache.layout import Kind, all_finite

ROWS: dict[Kind, str] = {"videos": "frames", "texts": "words", "patches": "patches"}
EXTRA: dict[Kind, str] = {"videos": "seconds", "texts": "sentence", "patches": "seconds"}
"""The second array of an entry. Times beside patch tokens are left alone: those of the frames count."""
NOUN: dict[Kind, str] = {"videos": "video", "texts": "text", "patches": "video"}
SHAPES: dict[Kind, tuple[str, ...]] = {
    "videos": ("frames", "dimension"),
    "texts": ("tokens", "dimension"),
    "patches": ("frames", "tokens", "dimension"),
}
BLOCK_BYTES = 2**24
"""Bytes of features that are read, and written as a part, at once."""
FLOATS = ("float16", "float32", "float64")


class Item(NamedTuple):
    """An entry as its header describes it, before its features are read.

    name: the id of a video, or a text.
    shape: of the features; () if only reading tells.
    path, size, mtime_ns: of its file; `where` is the place in a file of several entries.
    key: how the reader finds it again.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    path: Path
    size: int
    mtime_ns: int
    where: str = ""
    key: Any = None

    @property
    def place(self) -> str:
        """The file, and the place in it, for errors."""
        return f"{self.path}, {quote(self.where)}" if self.where else str(self.path)

    @property
    def tokens(self) -> int:
        """Rows of a text as its header tells: 0 for a sentence alone, and if only reading tells."""
        return self.shape[0] if len(self.shape) == 2 else 0


class Loaded(NamedTuple):
    """The arrays of one entry: frames [T, D] and seconds [T], words [T, D] and the sentence [D], or patch tokens [T, M, D].

    Without times, `extra` of a video is None; without a sentence, that of a text. A text with its sentence alone has no rows.
    """

    rows_TD: NDArray[Any]
    extra: NDArray[Any] | None


class Block(NamedTuple):
    """Several entries: their rows, concatenated [R, D] or [R, M, D], the number of rows of each, and their seconds [R] or sentences [N, D],
    if any.

    done: call it when the rows are no longer needed, so that their memory is used again.
    """

    items: Sequence[Item]
    rows_RD: NDArray[Any]
    counts: Sequence[int]
    extra: NDArray[Any] | None
    done: Callable[[], object] = lambda: None


class Memory:
    """Memory for the rows of blocks. That of a block that is done serves the next one: the system clears new memory before its first
    use, which takes longer than a read.

    One thread makes blocks; any thread may say that one is done.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque()

    def block(self, items: Sequence[Item], rows: int, row_shape: tuple[int, ...], dtype: np.dtype[Any], counts: Sequence[int]) -> Block:
        """A block without second arrays, whose rows are to be filled."""
        size = rows * prod(row_shape) * dtype.itemsize
        piece = self._free.pop() if self._free else None
        if piece is None or len(piece) < size:
            piece = np.empty(max(size, BLOCK_BYTES), dtype=np.uint8)
        return Block(items, piece[:size].view(dtype).reshape(rows, *row_shape), counts, None, partial(self._free.append, piece))


class Reader(Protocol):
    """Reads one form. `items` come from headers alone; `read` gives the features of some, in the order of `items`."""

    items: list[Item]

    def read(self, items: Sequence[Item]) -> Iterator[Block]:
        """The arrays of these items. Raises UserError if a file is damaged."""

    def left_alone(self) -> dict[str, int]:
        """Counts of files that hold no features, by suffix."""


def require_features(shape: tuple[int, ...], dtype: np.dtype[Any], kind: Kind, place: object) -> None:
    """Raise UserError if a header does not describe features: floating-point, [T, D] (or [D] for a sentence alone), not empty.

    Patch tokens are [T, M, D].
    """
    if dtype.kind == "f" and dtype.itemsize <= 8 and len(shape) == len(SHAPES[kind]) and min(shape) > 0:
        return
    what = words_for(kind)
    if dtype.kind == "O":
        raise UserError(f"{place}: {what} are pickled Python objects, which are never loaded: save them as an array of floats")
    if dtype.name not in FLOATS:
        raise UserError(f"{place}: {what} are {dtype.name}, not features: save them as float16 or float32")
    single = kind == "texts" and len(shape) == 1
    if len(shape) != len(SHAPES[kind]) and not single:
        wanted = f"[{', '.join(SHAPES[kind])}]{', or [dimension] for the sentence alone' if kind == 'texts' else ''}"
        raise UserError(f"{place}: {what} have the shape {list(shape)}: expected {wanted}")
    if min(shape) <= 0:
        raise UserError(f"{place}: {what} have the shape {list(shape)}, which holds nothing: leave it out")


def words_for(kind: Kind) -> str:
    """What rows of a kind are called in an error."""
    return "patch tokens" if kind == "patches" else ROWS[kind]


def require_sound(block: Block, kind: Kind) -> None:
    """Raise UserError, naming the entry, if features are NaN or infinite, or if times are not ascending seconds."""

    def place_of(row: int) -> tuple[Item, int]:
        entry = int(np.searchsorted(np.cumsum(block.counts), row, side="right"))
        return block.items[entry], row - sum(block.counts[:entry])

    if not all_finite(block.rows_RD):
        item, row = place_of(int(np.flatnonzero(~np.isfinite(_flat(block.rows_RD)).all(axis=1))[0]))
        raise UserError(f"{item.place}: {words_for(kind)} hold NaN or infinity, first in row {row}: compute them again, or leave it out")
    _require_unpadded(block, kind)
    if block.extra is None or kind == "patches":
        return
    if kind == "texts":
        if not all_finite(block.extra):
            item = block.items[int(np.flatnonzero(~np.isfinite(block.extra).all(axis=1))[0])]
            raise UserError(f"{item.place}: the sentence holds NaN or infinity: compute it again, or leave it out")
        if not block.extra.any(axis=1).all():
            item = block.items[int(np.flatnonzero(~block.extra.any(axis=1))[0])]
            raise UserError(f"{item.place}: the sentence is all zeros: compute it again, or leave it out")
        return
    # A video may begin before the last frame of the one before it.
    backwards = np.diff(block.extra, prepend=-np.inf) < 0
    backwards[(np.cumsum(block.counts) - block.counts).tolist()] = False
    wrong = ~np.isfinite(block.extra) | (block.extra < 0) | backwards
    if wrong.any():
        raise UserError(f"{place_of(int(wrong.argmax()))[0].place}: seconds must be finite, 0 or more, and ascending")


def _flat(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows of any shape, each as one vector."""
    return rows.reshape(len(rows), prod(rows.shape[1:]))


def _require_unpadded(block: Block, kind: Kind) -> None:
    """Raise UserError if an entry ends in rows of zeros, which pad arrays of one shape. They would count as frames or tokens."""
    counts = np.asarray(block.counts)
    entries = np.flatnonzero(counts)
    last = np.cumsum(counts)[entries] - 1
    padded = np.flatnonzero(~_flat(block.rows_RD[last]).any(axis=1))
    if len(padded):
        entry, stop = int(entries[padded[0]]), int(last[padded[0]]) + 1
        rows_TD = _flat(block.rows_RD[stop - counts[entry] : stop])
        kept = int(np.flatnonzero(rows_TD.any(axis=1))[-1]) + 1 if rows_TD.any() else 0
        remedy = f"save the first {kept} alone" if kept else "compute them again, or leave it out"
        raise UserError(
            f"{block.items[entry].place}: the last {len(rows_TD) - kept} of {len(rows_TD)} {words_for(kind)} are all zeros: {remedy}"
        )


def in_blocks(items: Sequence[Item], loaded: Iterator[Loaded], kind: Kind) -> Iterator[Block]:
    """Gather entries that are read one by one into blocks of about BLOCK_BYTES."""
    pending: list[tuple[Item, Loaded]] = []
    held = 0
    for item, arrays in zip(items, loaded, strict=True):
        _require_fitting(arrays, kind, item)
        if pending and not _alike(arrays, pending[0][1]):
            yield _joined(pending, kind)
            pending, held = [], 0
        pending.append((item, arrays))
        held += arrays.rows_TD.nbytes + (0 if arrays.extra is None else arrays.extra.nbytes)
        if held >= BLOCK_BYTES:
            yield _joined(pending, kind)
            pending, held = [], 0
    if pending:
        yield _joined(pending, kind)


def _alike(one: Loaded, other: Loaded) -> bool:
    same = one.rows_TD.dtype == other.rows_TD.dtype and one.rows_TD.shape[1:] == other.rows_TD.shape[1:]
    return same and (one.extra is None) == (other.extra is None)


def _joined(pending: Sequence[tuple[Item, Loaded]], kind: Kind) -> Block:
    extras = [arrays.extra for _, arrays in pending if arrays.extra is not None]
    extra = None if not extras else np.stack(extras) if kind == "texts" else np.concatenate(extras)
    rows_RD = np.concatenate([arrays.rows_TD for _, arrays in pending])
    return Block([item for item, _ in pending], rows_RD, [len(arrays.rows_TD) for _, arrays in pending], extra)


def _require_fitting(arrays: Loaded, kind: Kind, item: Item) -> None:
    """Raise UserError if the second array of an entry does not go with its rows."""
    rows_TD, extra = arrays
    if extra is None:
        return
    wanted = rows_TD.shape[1:] if kind == "texts" else (len(rows_TD),)
    if extra.shape != wanted:
        if kind == "texts":
            raise UserError(f"{item.place}: the sentence has the shape {list(extra.shape)}: expected {list(wanted)}")
        raise UserError(f"{item.place}: {len(rows_TD)} frames and seconds of shape {list(extra.shape)}: give one time for each frame")


def require_width(found: int, dimension: int, item: Item) -> None:
    """Raise UserError if features are not D wide."""
    if found != dimension:
        raise UserError(f"{item.place}: features are {found} wide, the others {dimension}: import features of one encoder into one cache")


def require_patches(found: int, count: int, item: Item, cache: Path | None) -> None:
    """Raise UserError if the number of patch tokens of a frame, `found`, is not M: that of other videos, or of the `cache` if given."""
    if found == count:
        return
    if cache is None:
        raise UserError(f"{item.place}: {found:,} patch tokens of each frame, the others have {count:,}: every frame must have as many")
    raise UserError(
        f"{item.place}: {found:,} patch tokens of each frame, and the cache holds {count:,}: import into another --cache, or remove "
        f"{cache / 'patches-*.h5'} first"
    )


def require_frames(found: int, frames: int, item: Item) -> None:
    """Raise UserError if a video has patch tokens of another number of frames."""
    if found != frames:
        raise UserError(f"{item.place}: patch tokens of {found:,} frames, and the video has {frames:,}: save those of the same frames")


def require_unique(items: Sequence[Item]) -> None:
    """Raise UserError, naming both places, if two items have one name."""
    first: dict[str, Item] = {}
    for item in items:
        if first.setdefault(item.name, item) is not item:
            raise UserError(f"{quote(item.name)} is there twice, in {first[item.name].place} and in {item.place}: keep one of them")


def seconds_or_none(array: NDArray[Any] | None, kind: Kind, item: Item) -> NDArray[Any] | None:
    """The second array of an entry, checked for its dtype."""
    if array is None:
        return None
    if array.dtype.kind not in ("f" if kind == "texts" else "iuf"):
        raise UserError(f"{item.place}: {EXTRA[kind]} are {array.dtype.name}: save them as {'floats' if kind == 'texts' else 'numbers'}")
    return array if kind == "texts" else array.astype(np.float64)


def loaded_of(rows: NDArray[Any], extra: NDArray[Any] | None, kind: Kind, item: Item) -> Loaded:
    """The arrays of an entry, as read. One row of a text's features is its sentence alone."""
    if kind == "texts" and rows.ndim == 1:
        return Loaded(np.empty((0, len(rows)), dtype=rows.dtype), rows)
    return Loaded(rows, seconds_or_none(extra, kind, item))
