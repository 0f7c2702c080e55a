"""Read a folder of `.npy` or `.npz` files, one for each video or text.

video7.npy     frames [T, D]                        dog.npy + dog.txt   words [L, D], or the sentence [D]; the text
video7.npz     frames [T, D], seconds [T]           dog.npz             text, words [L, D], sentence [D]

Patch tokens of a video are patches [T, M, D], in a `.npy` or under this name in a `.npz`.
"""

import io
import math
import os
import tokenize
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError, cannot_read, one_line
from data.base.quoting import path_text
from data.cache.layout import NAMES, Kind
from data.exchange.items import BLOCK_BYTES, EXTRA, NOUN, ROWS, Block, Item, Loaded, Memory, in_blocks, loaded_of, require_features

SUFFIXES = (".npy", ".npz")
HEADER_BYTES = 4096
"""More than the header of a `.npy` file of features."""
_BAD_FILE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)
"""What zipfile raises for a damaged `.npz`, and for one that is encrypted or compressed in an unknown way."""


class FolderReader:
    """The `.npy` and `.npz` files under a folder. The name of a video is the path of its file without the suffix."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        """List the files and read their headers. Raises UserError if one is not features, or if two have one name."""
        self._kind, self._other = kind, Counter[str]()
        self.items: list[Item] = []
        self._memory = Memory()
        named: dict[str, Path] = {}
        for path, stem in self._paths(folder):
            if stem in named:
                raise UserError(f"{named[stem]} and {path} are two files for one {NOUN[kind]}: keep one of them")
            named[stem] = path
            self.items.append(self._item(path, path_text(stem)))
        if not named:
            others = ", ".join(f"{count:,} {suffix}" for suffix, count in self._other.items())
            raise UserError(
                f"{folder} holds no .npy or .npz files{f', but {others}' if others else ''}: name the folder of features, or one HDF5, "
                f"Parquet or safetensors file{'; unpack a .tar first' if '.tar' in self._other else ''}"
            )

    def left_alone(self) -> dict[str, int]:
        """Counts of other files, by suffix. A `.txt` beside the features of a text is read, not left alone."""
        return dict(self._other)

    def read(self, items: Sequence[Item]) -> Iterator[Block]:
        """Read whole files, one after the other. Raises UserError if one is truncated."""
        # Neighbours of one form are read together: plain .npy files straight into one array.
        for form, group in groupby(items, self._form):
            members = list(group)
            yield from self._read_plain(members, form) if form is not None else in_blocks(members, self._each(members), self._kind)

    def _form(self, item: Item) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
        """The dtype and the shape of a row of a plain file: rows in order, `.npy`; None for others."""
        return (item.dtype, item.shape[1:]) if item.key is not None and len(item.shape) > 1 else None

    def _read_plain(self, items: Sequence[Item], form: tuple[np.dtype[Any], tuple[int, ...]]) -> Iterator[Block]:
        row_bytes = form[0].itemsize * math.prod(form[1])
        first = 0
        while first < len(items):
            last, rows = first, 0
            while last < len(items) and (rows == 0 or (rows + items[last].shape[0]) * row_bytes <= BLOCK_BYTES):
                rows += items[last].shape[0]
                last += 1
            block = self._memory.block(items[first:last], rows, form[1], form[0], [item.shape[0] for item in items[first:last]])
            view, at = block.rows_RD.reshape(-1).view(np.uint8).data, 0
            for item in items[first:last]:
                size = item.shape[0] * row_bytes
                _read_into(item, view[at : at + size])
                at += size
            yield block
            first = last

    def _each(self, items: Sequence[Item]) -> Iterator[Loaded]:
        rows: NDArray[Any] | None
        for item in items:
            try:
                if item.path.suffix.lower() == ".npy":
                    rows, extra = _array(item.path.read_bytes(), item.place), None
                else:
                    with zipfile.ZipFile(item.path) as archive:
                        names = _members(archive)
                        rows, extra = (
                            _array(archive.read(names[role]), item.place) if role in names else None for role in self._roles(names)
                        )
            except _BAD_FILE as error:
                raise _damaged(item.path, error) from error
            assert rows is not None
            yield loaded_of(rows, extra, self._kind, item)

    def _paths(self, folder: Path) -> Iterator[tuple[Path, str]]:
        """The files of features, with their paths below the folder without the suffix, sorted folder by folder."""
        root = len(os.path.join(folder, ""))
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            linked = sum(os.path.islink(os.path.join(parent, name)) for name in folders)
            if linked:
                # Not followed: a link may lead back to a folder above it.
                self._other["links to folders"] += linked
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if name.startswith("."):
                    continue
                if suffix.lower() in SUFFIXES:
                    yield Path(parent, name), os.path.join(parent, stem)[root:]
                elif self._kind != "texts" or suffix != ".txt":
                    self._other[suffix or "without suffix"] += 1

    def _item(self, path: Path, stem: str) -> Item:
        text = key = None
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                stat = os.fstat(handle)
                head = os.read(handle, HEADER_BYTES)
            finally:
                os.close(handle)
            if path.suffix.lower() == ".npy":
                shape, dtype, fortran, offset = _header(head, path)
                require_features(shape, dtype, self._kind, path)
                whole = offset + math.prod(shape) * dtype.itemsize
                if stat.st_size < whole:
                    raise UserError(f"{path} is truncated: it has {stat.st_size:,} of {whole:,} bytes; copy it again")
                key = None if fortran else offset
            else:
                with zipfile.ZipFile(path) as archive:
                    names = _members(archive)
                    role = self._roles(names)[0]
                    if role not in names:
                        raise UserError(f"{path} has the arrays {', '.join(names) or 'none'}: name one of them {ROWS[self._kind]}")
                    with archive.open(names[role]) as member:
                        shape, dtype, _fortran, _offset = _header(member.read(HEADER_BYTES), path)
                    inside = NAMES[self._kind]
                    text = _text_of(_array(archive.read(names[inside]), path), path) if inside in names else None
                require_features(shape, dtype, self._kind, path)
        except _BAD_FILE as error:
            raise _damaged(path, error) from error
        name = stem if text is None else text
        if self._kind == "texts" and text is None:
            name = _text_beside(path, os.path.basename(stem))
        return Item(name, shape, dtype, path, stat.st_size, stat.st_mtime_ns, "", key)

    def _roles(self, names: Sequence[str] | dict[str, str]) -> tuple[str, str]:
        """The names of the two arrays in a `.npz`. A single array may have any name; a text may have its sentence alone."""
        rows, extra = ROWS[self._kind], EXTRA[self._kind]
        if rows not in names and self._kind == "texts" and "sentence" in names:
            return "sentence", ""
        only = [name for name in names if name != NAMES[self._kind]]
        return (only[0] if rows not in names and len(only) == 1 and only[0] != extra else rows), extra


def _text_beside(path: Path, stem: str) -> str:
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return stem
    try:
        return beside.read_text(encoding="utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{beside} is not UTF-8: save the text as UTF-8") from error


def _text_of(array: NDArray[Any], place: Path) -> str:
    if array.dtype.kind != "U" or array.size != 1:
        raise UserError(f"{place}: text must be one string, such as np.array('a red ring')")
    return str(array.reshape(())[()])


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    return {name.removesuffix(".npy"): name for name in archive.namelist()}


@lru_cache(maxsize=64)
def _parsed(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Parse the header of a `.npy` file. The files of a folder have few different ones."""
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        # Numpy reads what Python 2 wrote, and asks to save it again.
        warnings.simplefilter("ignore", UserWarning)
        shape, fortran, dtype = read(file)
    return shape, dtype, fortran


def _header(head: bytes, place: Path | str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """The shape, the dtype, whether columns are contiguous, and the offset of the data. Raises UserError if it is not `.npy`."""
    if not head.startswith(b"\x93NUMPY") or len(head) < 12:
        raise UserError(f"{place} is not a .npy file, or is truncated: save it again with numpy.save")
    wide = head[6] > 1
    offset = (12 if wide else 10) + int.from_bytes(head[8 : 12 if wide else 10], "little")
    try:
        shape, dtype, fortran = _parsed(head[:offset])
    except (ValueError, SyntaxError, EOFError, TypeError, tokenize.TokenError) as error:
        raise UserError(f"{place} has a damaged header ({one_line(error)}): save it again with numpy.save") from error
    return shape, dtype, fortran, offset


def _array(content: bytes, place: Path | str) -> NDArray[Any]:
    """The array of a `.npy` file. Objects are never unpickled."""
    shape, dtype, fortran, offset = _header(content, place)
    if dtype.hasobject:
        raise UserError(f"{place}: holds pickled Python objects, which are never loaded: save an array of floats")
    if len(content) - offset < math.prod(shape) * dtype.itemsize:
        raise UserError(f"{place} is truncated: copy it again")
    flat = np.frombuffer(content, dtype=dtype, offset=offset, count=math.prod(shape))
    return flat.reshape(shape, order="F" if fortran else "C")


def _read_into(item: Item, view: memoryview) -> None:
    """Read the data of a plain `.npy` file. Raises UserError if it became shorter since its header was read."""
    try:
        handle = os.open(item.path, os.O_RDONLY)
        try:
            done = 0
            while done < len(view):
                count = os.preadv(handle, [view[done:]], item.key + done)
                if not count:
                    raise UserError(f"{item.path} is truncated: copy it again")
                done += count
        finally:
            os.close(handle)
    except OSError as error:
        raise cannot_read(item.path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return cannot_read(path, error)
    if isinstance(error, RuntimeError):
        return UserError(f"{path} cannot be read ({one_line(error)}): save it again with numpy.savez")
    return UserError(f"{path} is damaged or truncated ({one_line(error)}): copy it again")
