"""Read a folder of `.npy` or `.npz` files, one for each video or text.

video7.npy     frames [T, D]                        dog.npy + dog.txt   words [L, D], or the sentence [D]; the text
video7.npz     frames [T, D], seconds [T]           dog.npz             text, words [L, D], sentence [D]
"""

import io
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError, cannot_read, one_line
from data.base.quoting import path_text
from data.cache.layout import NAMES, Kind
from data.exchange.items import EXTRA, ROWS, Item, Loaded, loaded_of, require_features

HEADER_BYTES = 4096
"""More than the header of a `.npy` file of features."""


class FolderReader:
    """The `.npy` and `.npz` files under a folder. The name of a video is the path of its file without the suffix."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        """List the files and read their headers. Raises UserError if one is not features, or if two have one name."""
        self._kind, self._other = kind, Counter[str]()
        self.items: list[Item] = []
        paths = list(self._paths(folder))
        named: dict[str, Path] = {}
        for path in paths:
            stem = path_text(path.relative_to(folder).with_suffix(""))
            if stem in named:
                raise UserError(f"{named[stem]} and {path} are two files for one {kind[:-1]}: keep one of them")
            named[stem] = path
            self.items.append(self._item(path, stem))
        if not paths:
            raise UserError(f"{folder} holds no .npy or .npz files: name the folder of features, or one HDF5, Parquet or safetensors file")

    def left_alone(self) -> dict[str, int]:
        """Counts of other files, by suffix. A `.txt` beside the features of a text is read, not left alone."""
        return dict(self._other)

    def read(self, items: Sequence[Item]) -> Iterator[Loaded]:
        """Read whole files, one after the other. Raises UserError if one is truncated."""
        rows: NDArray[Any] | None
        for item in items:
            try:
                if item.path.suffix == ".npy":
                    rows, extra = _array(item.path.read_bytes(), item.place), None
                else:
                    with zipfile.ZipFile(item.path) as archive:
                        names = _members(archive)
                        rows, extra = (
                            _array(archive.read(names[role]), item.place) if role in names else None for role in self._roles(names)
                        )
            except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
                raise _damaged(item.path, error) from error
            assert rows is not None
            yield loaded_of(rows, extra, self._kind, item.place)

    def _paths(self, folder: Path) -> Iterator[Path]:
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(name for name in names if not name.startswith(".")):
                path = Path(parent, name)
                if path.suffix in (".npy", ".npz"):
                    yield path
                elif self._kind == "videos" or path.suffix != ".txt":
                    self._other[path.suffix or "without suffix"] += 1

    def _item(self, path: Path, stem: str) -> Item:
        try:
            stat = path.stat()
            text = None
            if path.suffix == ".npy":
                with path.open("rb", buffering=0) as file:
                    head = file.read(HEADER_BYTES)
                shape, dtype, _fortran, offset = _header(head, str(path))
                whole = offset + int(np.prod(shape)) * dtype.itemsize
            else:
                with zipfile.ZipFile(path) as archive:
                    names = _members(archive)
                    role = self._roles(names)[0]
                    if role not in names:
                        raise UserError(f"{path} has the arrays {', '.join(names) or 'none'}: name one of them {ROWS[self._kind]}")
                    with archive.open(names[role]) as member:
                        shape, dtype, _fortran, _offset = _header(member.read(HEADER_BYTES), str(path))
                    inside = NAMES[self._kind]
                    text = _text_of(_array(archive.read(names[inside]), str(path)), str(path)) if inside in names else None
                whole = 0
        except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
            raise error if isinstance(error, UserError) else _damaged(path, error) from error
        require_features(shape, dtype, self._kind, str(path))
        if stat.st_size < whole:
            raise UserError(f"{path} is truncated: it has {stat.st_size:,} of {whole:,} bytes; copy it again")
        name = stem if text is None else text
        if self._kind == "texts":
            name = text if text is not None else _text_beside(path, Path(stem).name)
        return Item(name, str(path), shape, dtype, stat.st_size, stat.st_mtime_ns, path, None)

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


def _text_of(array: NDArray[Any], place: str) -> str:
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
    shape, fortran, dtype = read(file)
    return shape, dtype, fortran


def _header(head: bytes, place: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """The shape, the dtype, whether columns are contiguous, and the offset of the data. Raises UserError if it is not `.npy`."""
    if not head.startswith(b"\x93NUMPY") or len(head) < 12:
        raise UserError(f"{place} is not a .npy file, or is truncated: save it again with numpy.save")
    wide = head[6] > 1
    offset = (12 if wide else 10) + int.from_bytes(head[8 : 12 if wide else 10], "little")
    try:
        shape, dtype, fortran = _parsed(head[:offset])
    except (ValueError, SyntaxError, EOFError, TypeError) as error:
        raise UserError(f"{place} has a damaged header ({one_line(error)}): save it again with numpy.save") from error
    return shape, dtype, fortran, offset


def _array(content: bytes, place: str) -> NDArray[Any]:
    """The array of a `.npy` file. Objects are never unpickled."""
    shape, dtype, fortran, offset = _header(content, place)
    if dtype.hasobject:
        raise UserError(f"{place}: holds pickled Python objects, which are never loaded: save an array of floats")
    if len(content) - offset < int(np.prod(shape)) * dtype.itemsize:
        raise UserError(f"{place} is truncated: copy it again")
    flat = np.frombuffer(content, dtype=dtype, offset=offset, count=int(np.prod(shape)))
    return flat.reshape(shape, order="F" if fortran else "C")


def _damaged(path: Path, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return cannot_read(path, error)
    return UserError(f"{path} is damaged or truncated ({one_line(error)}): copy it again")
