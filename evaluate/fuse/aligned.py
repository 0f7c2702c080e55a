"""Brings matrices of the same texts and videos into one order: that of the first.

Shape suffixes: A texts, B videos, G videos that have texts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.quoting import quote
from evaluate.scores.matrix import READ_BYTES, Rows, ScoreMatrix


@dataclass(frozen=True)
class AlignedMatrix:
    """A matrix whose rows and columns are asked for by the indices of the first."""

    matrix: ScoreMatrix
    row_A: NDArray[np.int64]
    """For each text of the first matrix, its row in this one."""
    column_B: NDArray[np.int64]
    """For each video of the first matrix, its column in this one."""
    _rows: Rows | None = None

    @contextmanager
    def opened(self) -> Iterator["AlignedMatrix"]:
        """The same matrix with its file open."""
        with self.matrix.opened() as rows:
            yield AlignedMatrix(self.matrix, self.row_A, self.column_B, rows)

    def block(self, texts: NDArray[np.int64], videos: NDArray[np.int64] | None = None, read_bytes: int = READ_BYTES) -> NDArray[np.float64]:
        """The scores [A, B] of some texts and videos; None for all videos. Whole rows are read, `read_bytes` at a time."""
        assert self._rows is not None
        columns = self.column_B if videos is None else self.column_B[videos]
        at_once = max(1, read_bytes // (len(self.column_B) * self.matrix.dtype.itemsize))
        block_AB = np.empty((len(texts), len(columns)))
        for first in range(0, len(texts), at_once):
            some = slice(first, first + at_once)
            block_AB[some] = self._rows(self.row_A[texts[some]])[:, columns]
        return block_AB


@dataclass(frozen=True)
class Alignment:
    """Matrices in the order of the first."""

    matrices: tuple[AlignedMatrix, ...]
    captions: Sequence[str]
    videos: Sequence[str]
    answers: NDArray[np.int64]
    """The index of each text's video."""

    @classmethod
    def of(cls, matrices: Sequence[ScoreMatrix]) -> "Alignment":
        """Raises UserError unless all matrices have the same texts and the same videos, in any order."""
        first = matrices[0]
        texts, place = _texts(first), {video: i for i, video in enumerate(first.videos)}
        aligned = []
        for matrix in matrices:
            _require_same(first, matrix, "video", first.videos, matrix.videos)
            others = _texts(matrix)
            _require_same(first, matrix, "text", [caption for _, caption, _ in texts], [caption for _, caption, _ in others])
            _require_same(first, matrix, "caption-video pair", *([f"{text[1]} ({text[0]})" for text in some] for some in (texts, others)))
            row, column = {text: i for i, text in enumerate(others)}, {video: i for i, video in enumerate(matrix.videos)}
            row_A, column_B = np.array([row[text] for text in texts]), np.array([column[video] for video in first.videos])
            aligned.append(AlignedMatrix(matrix, row_A, column_B))
        return cls(tuple(aligned), first.captions, first.videos, np.array([place[owner] for owner in first.owners]))

    def by_video(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The texts sorted by video [A], and where those of each video begin [G]."""
        order = np.argsort(self.answers, kind="stable")
        return order, np.flatnonzero(np.diff(self.answers[order], prepend=-1))


def _texts(matrix: ScoreMatrix) -> list[tuple[str, str, int]]:
    """What a text is known by: its video, its caption, and how often that pair came before."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for owner, caption in zip(matrix.owners, matrix.captions, strict=True):
        found.append((owner, caption, seen[owner, caption]))
        seen[owner, caption] += 1
    return found


def _require_same(first: ScoreMatrix, other: ScoreMatrix, what: str, these: Sequence[str], those: Sequence[str]) -> None:
    left, right = Counter(these), Counter(those)
    for has, lacks, missing in ((first, other, left - right), (other, first, right - left)):
        if missing:
            example = quote(next(iter(missing)))
            count = f"{missing.total():,} {what}{'' if missing.total() == 1 else 's'}"
            raise UserError(f"{lacks.path} lacks {count} of {has.path}, such as {example}: fuse scores of the same split alone")
