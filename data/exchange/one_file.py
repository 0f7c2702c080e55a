"""Read features from one HDF5, safetensors or Parquet file.

HDF5, safetensors   video7 [T, D], or video7/frames [T, D] and video7/seconds [T]
                    TEXT [L, D] or [D], or NAME/words [L, D] and NAME/sentence [D], with the text in NAME/text (HDF5) or in the
                    file's metadata under NAME (safetensors); without it NAME is the text
                    video7 [T, M, D], or video7/patches [T, M, D]: patch tokens
HDF5                also the datasets of a part of a cache: video_id, frames, seconds, offsets; text, words, sentence, offsets;
                    video_id, patches, offsets
Parquet             a row for each: video_id, frames (list of lists), seconds (list); text, words (list of lists), sentence (list);
                    video_id, patches (list of lists of lists)
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from data.base.errors import UserError, cannot_read, one_line
from data.base.quoting import quote
from data.cache.hdf5 import Group, datasets_of, open_foreign, own_group, strings_of
from data.cache.layout import NAMES, Kind
from data.exchange.items import BLOCK_BYTES, EXTRA, ROWS, SHAPES, Block, Item, Loaded, Memory, in_blocks, loaded_of, require_features

PARQUET_ROWS: dict[Kind, int] = {"videos": 256, "texts": 256, "patches": 16}
"""Rows of a Parquet file that are read at once. The patch tokens of a video take some fifty times the bytes of its frames."""
ENTRIES = 4096
"""Most texts of a part of a cache that are read at once."""
_SAFETENSORS = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16", "BOOL": "bool"}
_SAFETENSORS |= {f"{letter}{bits}": f"{name}{bits}" for letter, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)}
BFLOAT16 = "bfloat16"
"""A dtype that numpy lacks: the first half of a float32, which holds it exactly."""


def _damaged(path: Path, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return cannot_read(path, error)
    if "already open for write" in str(error):
        return UserError(
            f"{path} is open for writing in another program, or was when that crashed: close it there, or run h5clear -s on it"
        )
    return UserError(f"{path} is damaged or truncated ({one_line(error)}): copy it again")


class _OneFile:
    """What the readers of one file share: the stamp of the file, and nothing beside it."""

    def __init__(self, path: Path, kind: Kind) -> None:
        try:
            stat = path.stat()
        except OSError as error:
            raise cannot_read(path, error) from error
        self.path, self.kind = path, kind
        self.items: list[Item] = []
        self._stamp = stat.st_size, stat.st_mtime_ns
        self._forms: dict[tuple[tuple[int, ...], str], np.dtype[Any]] = {}
        """The dtypes by shape and name. Most entries are alike, so few have to be checked."""
        self._memory = Memory()

    def left_alone(self) -> dict[str, int]:
        """One file has no files beside it."""
        return {}

    def _add(self, name: str, where: str, shape: tuple[int, ...], dtype: str, key: Any) -> None:
        form = self._forms.get((shape, dtype))
        if form is None:
            form = np.dtype("float32" if dtype == BFLOAT16 else dtype)
            if shape:
                require_features(shape, form, self.kind, f"{self.path}, {quote(where)}")
            self._forms[shape, dtype] = form
        self.items.append(Item(name, shape, form, self.path, *self._stamp, where, key))


class _ByKey(_OneFile):
    """A file of named arrays: NAME, or NAME/frames and NAME/seconds."""

    def _list(self, arrays: Mapping[str, tuple[tuple[int, ...], str]], text_of: Callable[[str], str | None]) -> None:
        rows, extra = ROWS[self.kind], EXTRA[self.kind]
        # By role, then by name. A dict for each name would make Python collect garbage several times.
        keys: dict[str, dict[str, str]] = {rows: {}, extra: {}, "text": {}}
        names: dict[str, None] = {}
        for key in arrays:
            name, slash, role = key.rpartition("/")
            if not slash or role not in keys:
                name, role = key, rows
            keys[role][name] = key
            names[name] = None
        for name in names:
            first, second = keys[rows].get(name), keys[extra].get(name)
            if first is None and self.kind == "texts":
                first, second = second, None
            if first is None:
                raise UserError(f"{self.path}, {quote(name)}: has no {rows}: add {name}/{rows}")
            if not arrays[first][0]:
                raise UserError(f"{self.path}, {quote(first)}: is one number, not features: save an array [rows, dimension]")
            self._add(text_of(name) or name, name, *arrays[first], (first, second))
        if not self.items:
            raise UserError(f"{self.path} holds no features of {self.kind}")


_Tensor: TypeAlias = tuple[int, tuple[int, ...], str]
"""A tensor of a safetensors file: where its data begin, its shape, and the name of its dtype."""


def _flattened(value: dict[str, Any]) -> _Tensor | dict[str, Any]:
    """A value of the header, with the description of a tensor as a plain tuple, which the garbage collector does not track."""
    if not isinstance(value.get("data_offsets"), list):
        return value
    return value["data_offsets"][0], tuple(value["shape"]), _SAFETENSORS.get(value["dtype"], value["dtype"])


class SafetensorsReader(_ByKey):
    """A safetensors file of tensors."""

    def __init__(self, path: Path, kind: Kind) -> None:
        """Read the header. Raises UserError if it is damaged or describes no features."""
        super().__init__(path, kind)
        try:
            with path.open("rb") as file:
                # The library checks the header; it does not tell where a tensor is in the file.
                with safe_open(path, framework="numpy") as checked:
                    texts = checked.metadata() or {}
                length = int.from_bytes(file.read(8), "little")
                header: dict[str, Any] = json.loads(file.read(length), object_hook=_flattened)
        except (SafetensorError, OSError, ValueError) as error:
            raise _damaged(path, error) from error
        header.pop("__metadata__", None)
        # Its writers say there which library had the tensors.
        texts.pop("format", None)
        for key, (_, _, dtype) in header.items():
            if dtype not in _SAFETENSORS.values():
                raise UserError(f"{path}, {quote(key)}: numpy has no {dtype}: save it as float16 or float32")
        self._tensors: dict[str, _Tensor] = header
        self._data = 8 + length
        # In the order of the file, so that it is read from start to end.
        order = sorted(header, key=lambda key: self._tensors[key][0])
        self._list({key: self._tensors[key][1:] for key in order}, texts.get)

    def read(self, items: Sequence[Item]) -> Iterator[Block]:
        """The tensors of these items. Neighbours in the file are read at once."""
        with self.path.open("rb") as file:
            for plain, group in groupby(items, lambda item: (item.dtype, item.shape[1:]) if self._is_plain(item) else None):
                members = list(group)
                if plain is None:
                    yield from in_blocks(members, self._each(file, members), self.kind)
                    continue
                for run in self._runs(members):
                    counts = [item.shape[0] for item in run]
                    block = self._memory.block(run, sum(counts), plain[1], plain[0], counts)
                    self._fill(file, self._tensors[run[0].key[0]][0], block.rows_RD)
                    yield block

    def _is_plain(self, item: Item) -> bool:
        """Whether an item is the rows of one tensor, as they are in the file."""
        return item.key[1] is None and len(item.shape) > 1 and self._tensors[item.key[0]][2] != BFLOAT16

    def _runs(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """Split items into runs of neighbours in the file of at most BLOCK_BYTES."""
        first = begin = end = 0
        for i, item in enumerate(items):
            start = self._tensors[item.key[0]][0]
            if i == 0 or start != end or end - begin >= BLOCK_BYTES:
                if i:
                    yield items[first:i]
                first, begin = i, start
            end = start + prod(item.shape) * item.dtype.itemsize
        yield items[first:]

    def _fill(self, file: BinaryIO, offset: int, array: NDArray[Any]) -> None:
        file.seek(self._data + offset)
        view = array.reshape(-1).view(np.uint8).data
        if file.readinto(view) != len(view):  # type: ignore[attr-defined]
            raise UserError(f"{self.path} is truncated: copy it again")

    def _each(self, file: BinaryIO, items: Sequence[Item]) -> Iterator[Loaded]:
        for item in items:
            arrays: list[NDArray[Any] | None] = []
            for key in item.key:
                if key is None:
                    arrays.append(None)
                    continue
                offset, shape, dtype = self._tensors[key]
                array = np.empty(shape, dtype=np.uint16 if dtype == BFLOAT16 else dtype)
                self._fill(file, offset, array)
                arrays.append((array.astype(np.uint32) << 16).view(np.float32) if dtype == BFLOAT16 else array)
            rows, extra = arrays
            assert rows is not None
            yield loaded_of(rows, extra, self.kind, item)


class Hdf5Reader(_ByKey):
    """An HDF5 file with a dataset or a group for each entry, or with the datasets of a part of a cache."""

    _failures = (OSError, RuntimeError, KeyError, TypeError, ValueError)
    """What h5py raises for a damaged file."""

    def __init__(self, path: Path, kind: Kind) -> None:
        """List the datasets. Raises UserError if the file is damaged or holds no features."""
        super().__init__(path, kind)
        try:
            self._file = open_foreign(path)
            group = own_group(self._file, kind) or self._file
            self._packed: Group | None = group if NAMES[kind] in group and "offsets" in group else None
            if self._packed is not None:
                self._list_packed(self._packed)
                return
            found = datasets_of(self._file)
            arrays = {key: (data.shape, data.dtype.name) for key, data in found.items() if not key.endswith("/text")}
            for key, (shape, _) in arrays.items():
                if shape is None or found[key].dtype.kind in "OVS":
                    what = "holds nothing" if shape is None else "holds text, lists or records"
                    raise UserError(f"{path}, {quote(key)}: {what}, not features: move it to another file")
            self._list(arrays, lambda name: self._text_of(found.get(f"{name}/text"), name))
        except self._failures as error:
            raise _damaged(path, error) from error

    def _text_of(self, data: Any, name: str) -> str | None:
        if data is None:
            return None
        text = np.asarray(strings_of(data, f"{self.path}, {quote(f'{name}/text')}"))
        if text.size != 1:
            raise UserError(f"{self.path}, {quote(f'{name}/text')}: has the shape {list(text.shape)}: save one string")
        return str(text.reshape(())[()])

    def _list_packed(self, group: Group) -> None:
        rows, extra = ROWS[self.kind], EXTRA[self.kind]
        names, offsets = strings_of(group[NAMES[self.kind]], f"{self.path}, {NAMES[self.kind]!r}"), group["offsets"]
        first = rows if rows in group or self.kind != "texts" else extra
        listed = first in group and names.ndim == 1 and offsets.shape == (len(names) + 1,) and offsets.dtype.kind in "iu"
        offsets = offsets[()].astype(np.int64) if listed else None
        if offsets is None or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise UserError(f"{self.path}: {NAMES[self.kind]}, {rows} and offsets do not describe the entries of a part of a cache")
        width, dtype = group[first].shape[1:], group[first].dtype.name
        if rows in group and len(group[rows]) != offsets[-1]:
            raise UserError(f"{self.path}: offsets end at {offsets[-1]} and there are {len(group[rows])} rows of {rows}")
        if extra in group:
            second = group[extra]
            expected = (len(names), *width) if self.kind == "texts" else (len(group[first]),)
            if second.shape != expected or second.dtype.kind not in ("f" if self.kind == "texts" else "iuf"):
                raise UserError(
                    f"{self.path}: {extra} are {second.dtype.name} of shape {list(second.shape or ())}: expected numbers of shape "
                    f"{list(expected)}"
                )
        for entry, (name, (start, stop)) in enumerate(zip(names.tolist(), pairwise(offsets.tolist()), strict=True)):
            shape = width if self.kind == "texts" and start == stop else (stop - start, *width)
            self._add(name, name, shape, dtype, (entry, start, stop))

    def read(self, items: Sequence[Item]) -> Iterator[Block]:
        """The datasets of these items."""
        try:
            if self._packed is not None:
                yield from self._read_packed(self._packed, items)
            else:
                yield from in_blocks(items, self._each(items), self.kind)
        except self._failures as error:
            raise _damaged(self.path, error) from error

    def _each(self, items: Sequence[Item]) -> Iterator[Loaded]:
        for item in items:
            rows, extra = (None if key is None else self._file[key][()] for key in item.key)
            assert rows is not None
            yield loaded_of(rows, extra, self.kind, item)

    def _read_packed(self, group: Group, items: Sequence[Item]) -> Iterator[Block]:
        """Neighbours are read at once."""
        rows, extra = ROWS[self.kind], EXTRA[self.kind]
        row_shape = group[rows if rows in group else extra].shape[1:]
        row_bytes = prod(row_shape) * (group[rows].dtype.itemsize if rows in group else 0)
        first = 0
        while first < len(items):
            begin, last = items[first].key[1], first + 1
            while last < len(items) and items[last].key[0] == items[last - 1].key[0] + 1:
                if (items[last].key[2] - begin) * row_bytes > BLOCK_BYTES or last - first >= ENTRIES:
                    break
                last += 1
            run = items[first:last]
            end, entries = run[-1].key[2], slice(run[0].key[0], run[-1].key[0] + 1)
            block = self._memory.block(run, end - begin, row_shape, items[0].dtype, [item.key[2] - item.key[1] for item in run])
            if end > begin:
                group[rows].read_direct(block.rows_RD, np.s_[begin:end])
            second = None
            if extra in group:
                second = group[extra][entries] if self.kind == "texts" else group[extra][begin:end]
            yield block._replace(extra=second)
            first = last


class ShardsReader:
    """A folder of HDF5, safetensors or Parquet files, which together hold the entries."""

    def __init__(self, paths: Sequence[Path], kind: Kind) -> None:
        """Read the header of each file. Raises UserError if one is damaged or holds no features."""
        self._shards = [FORMS[path.suffix.lower()](path, kind) for path in paths]
        self.items = [item for shard in self._shards for item in shard.items]

    def left_alone(self) -> dict[str, int]:
        """Other files of the folder are not counted."""
        return {}

    def read(self, items: Sequence[Item]) -> Iterator[Block]:
        """The arrays of these items, which are in the order of the files."""
        wanted = {id(item) for item in items}
        for shard in self._shards:
            mine = [item for item in shard.items if id(item) in wanted]
            if mine:
                yield from shard.read(mine)


class ParquetReader(_OneFile):
    """A Parquet file with a row for each video or text."""

    def __init__(self, path: Path, kind: Kind) -> None:
        """Read the names and the schema. Raises UserError if the file is damaged or lacks a column."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().__init__(path, kind)
        self._failures = (pa.ArrowException, OSError, ValueError)
        rows, extra, name = ROWS[kind], EXTRA[kind], NAMES[kind]
        try:
            # As bytes: pyarrow does not accept a str that is not UTF-8.
            self._table = pq.ParquetFile(pa.OSFile(os.fsencode(path)))
            schema = self._table.schema_arrow
            there = [column for column in (name, rows, extra) if column in schema.names]
            if name not in there or (rows not in there and not (kind == "texts" and extra in there)):
                raise UserError(f"{path} has the columns {', '.join(schema.names)}: expected {name}, {rows} and {extra}")
            self._columns = there
            names = self._table.read(columns=[name]).column(0).to_pylist()
            kinds = schema.field(rows if rows in there else extra).type
        except self._failures as error:
            raise error if isinstance(error, UserError) else _damaged(path, error) from error
        while pa.types.is_list(kinds) or pa.types.is_large_list(kinds) or pa.types.is_fixed_size_list(kinds):
            kinds = kinds.value_type
        dtype = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kinds))
        lacking = [column for column in there[1:] if not _is_list(schema.field(column).type)]
        if dtype is None or lacking:
            column = lacking[0] if lacking else there[1]
            raise UserError(f"{path}: {column} are {schema.field(column).type}: save a list of floats for each row")
        for row, value in enumerate(names):
            if not isinstance(value, str):
                raise UserError(f"{path}, row {row}: {name} is {quote(value)}, not text")
            self._add(value, value, (), dtype, row)

    def read(self, items: Sequence[Item]) -> Iterator[Block]:
        """The rows of these items, which are in the order of the file."""
        wanted = {item.key: item for item in items}
        row = 0
        try:
            for batch in self._table.iter_batches(PARQUET_ROWS[self.kind], columns=self._columns):
                members = [(number, wanted[row + number]) for number in range(len(batch)) if row + number in wanted]
                if members:
                    here = [item for _, item in members]
                    whole = self._whole(batch, here) if len(here) == len(batch) else None
                    yield from [whole] if whole is not None else in_blocks(here, self._each(batch, members), self.kind)
                row += len(batch)
        except self._failures as error:
            raise error if isinstance(error, UserError) else _damaged(self.path, error) from error

    def _whole(self, batch: Any, items: Sequence[Item]) -> Block | None:
        """A batch of plain rows, without going through its cells: features alone, lists of lists of one width, nothing missing."""
        rows = ROWS[self.kind]
        if EXTRA[self.kind] in self._columns:
            return None
        column = batch.column(rows)
        inner = column.flatten()
        lengths = inner.value_lengths() if _is_list(inner.type) and not _is_list(inner.type.value_type) else None
        if lengths is None or column.null_count or inner.null_count or not len(inner) or inner.flatten().null_count:
            return None
        widths, counts = np.asarray(lengths), np.asarray(column.value_lengths())
        if (widths != widths[0]).any() or not widths[0] or not counts.all():
            return None
        rows_RD = inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, int(widths[0]))
        return Block(items, rows_RD, counts.tolist(), None)

    def _each(self, batch: Any, members: Sequence[tuple[int, Item]]) -> Iterator[Loaded]:
        rows, extra = ROWS[self.kind], EXTRA[self.kind]
        for number, item in members:
            first, second = (
                _nested(batch.column(column)[number], item.place, column, len(SHAPES[self.kind])) if column in self._columns else None
                for column in (rows, extra)
            )
            if first is None or (self.kind == "texts" and first.shape == (0,)):
                first, second = second, None
            if first is None:
                raise UserError(f"{item.place}: {rows} are empty")
            require_features(first.shape, first.dtype, self.kind, item.place)
            yield loaded_of(first, second, self.kind, item)


def _nested(cell: Any, place: str, column: str, deepest: int) -> NDArray[Any] | None:
    """A list of numbers as [N], a list of lists as [N, M], and so on. None for a missing cell."""
    import pyarrow.compute as pc

    if not cell.is_valid:
        return None
    values = cell.values
    shape = [len(values)]
    while hasattr(values, "flatten") and _is_list(values.type):
        if len(shape) == deepest:
            raise UserError(f"{place}: {column} are nested deeper than {deepest} lists: save one list for each dimension of the array")
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if values.null_count or len(lengths) > 1:
            raise UserError(f"{place}: the lists of {column} have different lengths, or one is missing")
        values = values.flatten()
        shape += lengths
    return _numbers(values, place, column).reshape(shape)


def _is_list(kind: Any) -> bool:
    return hasattr(kind, "value_type")


def _numbers(values: Any, place: str, column: str) -> NDArray[Any]:
    if values.null_count:
        raise UserError(f"{place}: {column} hold missing values")
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numbers


FORMS: dict[str, type[SafetensorsReader] | type[Hdf5Reader] | type[ParquetReader]] = {
    ".h5": Hdf5Reader,
    ".hdf5": Hdf5Reader,
    ".safetensors": SafetensorsReader,
    ".parquet": ParquetReader,
}
"""The readers by the suffix of the file."""
