"""A matrix of scores on disk: NAME.npy, texts x videos, the ids of its rows and columns as Parquet, and what made it as JSON.

    runs/scores.npy             [A, B], or [S, A, B] with one matrix per score
    runs/scores.texts.parquet   text (row), caption, video_id (the video that it describes)
    runs/scores.videos.parquet  video (column), video_id
    runs/scores.json            run, preset, split, scores, dtype, digests, provenance

Shape suffixes: A texts, B videos, S scores of a pair.
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.base.errors import UserError, cannot_read, not_as_written, one_line
from data.base.whole_files import write_json, write_whole
from data.base.writable import require_writable_file
from data.cache.tables import read_parquet

SUFFIX = ".npy"
TYPES = ("float16", "float32", "float64")
"""Types of matrices that `ScoreMatrix` reads."""
REQUIRED = (
    *("run", "preset", "split", "counts", "trained_on", "train_videos", "selected_on", "protocol"),
    *("max_frames", "products", "cache_digest", "weights"),
)
"""Fields that NAME.json must have, if there is one."""
READ_BYTES = 2**23
"""Bytes of a file read at once."""


@dataclass(frozen=True)
class MatrixFiles:
    """A matrix and the files beside it."""

    matrix: Path

    @classmethod
    def named(cls, path: Path, option: str) -> "MatrixFiles":
        """From NAME.npy. Raises UserError for another suffix."""
        if path.suffix != SUFFIX or not path.stem:
            raise UserError(f"{option} {path}: name it NAME{SUFFIX}, the format that NumPy reads")
        return cls(path)

    @property
    def texts(self) -> Path:
        """The captions of the rows."""
        return self.matrix.with_suffix(".texts.parquet")

    @property
    def videos(self) -> Path:
        """The ids of the columns."""
        return self.matrix.with_suffix(".videos.parquet")

    @property
    def made(self) -> Path:
        """What made the matrix."""
        return self.matrix.with_suffix(".json")

    def require_writable(self, option: str) -> None:
        """Raise UserError if one of the files cannot be written, or NAME.json is a file of something else, such as run.json of a run."""
        for path in (self.matrix, self.texts, self.videos, self.made):
            require_writable_file(path, option)
        if self.made.is_file() and not self._made_is_ours():
            raise UserError(f"{option} {self.matrix} would replace {self.made}, which belongs to something else: choose another name")

    def _made_is_ours(self) -> bool:
        """Whether NAME.json describes a matrix."""
        try:
            made = json.loads(self.made.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(made, dict) and {"scores", "shape", "dtype"} <= made.keys()

    def write_beside(self, captions: Sequence[str], owners: Sequence[str], videos: Sequence[str], made: dict[str, Any]) -> None:
        """Write everything but the matrix. `owners`: the video of each caption."""
        texts = pd.DataFrame({"text": range(len(captions)), "caption": list(captions), "video_id": list(owners)})
        for path, frame in ((self.texts, texts), (self.videos, pd.DataFrame({"video": range(len(videos)), "video_id": list(videos)}))):
            content = io.BytesIO()
            frame.to_parquet(content, index=False)
            write_whole(path, content.getvalue())
        write_json(self.made, made)


@dataclass(frozen=True)
class ScoreMatrix:
    """A matrix that is read block by block, and never mapped: mapped pages would count as memory of the process."""

    path: Path
    made: dict[str, Any]
    """Contents of NAME.json. For a matrix without one, made by other means, its name as `run` and None for what is not known."""
    captions: list[str]
    owners: list[str]
    """The video of each caption."""
    videos: list[str]
    dtype: np.dtype[Any]
    begins: int
    """Where the first score is in the file, in bytes."""

    @classmethod
    def read(cls, path: Path) -> "ScoreMatrix":
        """Read everything but the scores. Raises UserError if a file is damaged, missing, or does not fit; NAME.json may be missing."""
        files = MatrixFiles.named(path, "matrix")
        shape, dtype, begins = _header(path)
        if len(shape) == 3:
            raise UserError(f"{path} holds {shape[0]} scores of each pair: save one with evaluate --save-scores-of NAME, or their mean")
        try:
            made = _made(files.made, path.stem)
            texts, videos = read_parquet(files.texts), read_parquet(files.videos)
            captions, owners, ids = _strings(texts["caption"]), _strings(texts["video_id"]), _strings(videos["video_id"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            line = f"{path}: {files.texts.name}, {files.videos.name} or {files.made.name} beside it is missing or damaged"
            remedy = "save the scores again with evaluate --save-scores, or write the ids as docs/guide/scores.md says"
            raise not_as_written(files.texts, error, f"{line} ({one_line(error)}): {remedy}") from error
        if shape != (len(captions), len(ids)):
            raise UserError(
                f"{path} has the shape {list(shape)}, but the files beside it list {len(captions)} texts and {len(ids)} videos: save the "
                "scores again with evaluate --save-scores"
            )
        if len(set(ids)) < len(ids) or not set(owners) <= set(ids):
            raise UserError(f"{files.videos} lists a video twice, or lacks the video of a text: save the scores again")
        return cls(path, made, captions, owners, ids, dtype, begins)

    @contextmanager
    def opened(self) -> Iterator["Rows"]:
        """The rows of the file, while it is open."""
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise cannot_read(self.path, error) from error
        try:
            yield Rows(self, handle)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Rows:
    """The rows of an open matrix."""

    matrix: ScoreMatrix
    handle: int

    def __call__(self, texts: NDArray[np.int64]) -> NDArray[Any]:
        """The scores [A, B] of these texts, in the type of the file."""
        columns = len(self.matrix.videos)
        block_AB = np.empty((len(texts), columns), self.matrix.dtype)
        size = columns * self.matrix.dtype.itemsize
        for row_B, text in zip(block_AB, texts.tolist(), strict=True):
            if os.preadv(self.handle, [row_B], self.matrix.begins + text * size) < size:
                raise UserError(f"{self.matrix.path} has changed while it was read: run again when nobody writes it")
        return block_AB


def _made(file: Path, name: str) -> dict[str, Any]:
    """What made a matrix. Raises OSError or ValueError if the file is there and damaged."""
    if not os.path.lexists(file):
        return dict.fromkeys(REQUIRED) | {"run": name}
    made = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(made, dict) or not made.keys() >= set(REQUIRED):
        raise ValueError(f"{file} lacks fields")
    return made


def _strings(column: "pd.Series[Any]") -> list[str]:
    """A column of ids or captions; other programs may write ids as numbers. Raises ValueError if one is missing."""
    if column.isna().any():
        raise ValueError(f"a row lacks {column.name}")
    return [str(value) for value in column.tolist()]


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and place of the first score. Raises UserError if the file is not a matrix of scores."""
    remedy = "name a matrix that evaluate --save-scores wrote"
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran_order, dtype = read(file)
            begins, size = file.tell(), path.stat().st_size
    except OSError as error:
        if path.exists() and not path.is_dir():
            raise cannot_read(path, error) from error
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'not there'}: {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path} is not in NumPy's format ({one_line(error)}): {remedy}") from error
    if len(shape) not in (2, 3) or fortran_order or dtype.name not in TYPES or not dtype.isnative:
        if fortran_order:
            remedy = "save it again after numpy.ascontiguousarray"
        order = ", in Fortran's order" if fortran_order else ""
        raise UserError(f"{path} holds {dtype} of shape {list(shape)}{order}; expected texts x videos of {', '.join(TYPES)}: {remedy}")
    if size != begins + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise UserError(f"{path} has {size:,} bytes, which its header contradicts: it was cut short; save the scores again")
    return shape, dtype, begins
