"""Writes the scores of all pairs to one .npy file, block by block as they are scored, so that memory does not grow with the gallery.

Shape suffixes: A texts, B videos, S scores of a pair, M matrices in the file.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.base.errors import UserError
from data.base.quoting import quote
from data.base.writable import cannot_write, make_folder
from data.compute.processes import ProcessGroup
from evaluate.scores.matrix import MatrixFiles
from train_head.heads import ALL_SCORES, chosen_scores
from train_head.scoring.splits import Split

MEAN = "mean"
"""Of --save-scores-of: the mean of all scores of the head, by which it ranks."""
_ZEROS = bytes(2**20)
OPTION = "--save-scores"


def chosen_matrices(of: str, names: Sequence[str]) -> list[list[int]]:
    """For each matrix in the file, the indices of the scores that it averages.

    >>> chosen_matrices("sentence-frame+word-frame", ["video-sentence", "video-word", "sentence-frame", "word-frame"])
    [[2, 3]]

    Raises UserError for a name that is not among the head's `names`.
    """
    if of == MEAN:
        return [list(range(len(names)))]
    if of == ALL_SCORES:
        return [[i] for i in range(len(names))]
    try:
        return [chosen_scores(of, tuple(names))]
    except UserError as error:
        raise UserError(
            f"--save-scores-of {of}: use {MEAN}, {ALL_SCORES}, or some of {', '.join(names)}, joined by + and each once"
        ) from error


class SavedScores:
    """An accumulator that writes each block into its place in the file, under a temporary name."""

    def __init__(self, files: MatrixFiles, split: Split, chosen: list[list[int]], dtype: str, each: bool) -> None:
        """`chosen`: see `chosen_matrices`. `each`: the array has a first axis for the matrices, even if there is only one."""
        self._files, self._split, self._chosen, self._dtype = files, split, chosen, np.dtype(dtype)
        matrix = len(split.answers), len(split.videos.ids)
        self.shape = (len(chosen), *matrix) if each else matrix
        # If the name is a symbolic link, its target is replaced.
        self._target = Path(os.path.realpath(files.matrix))
        self._handle = -1
        self._begins = 0
        self.rounding = torch.zeros(1, dtype=torch.float64)
        """By how much the type of the file has moved a score, at most."""
        self.temporary = Path()

    @contextmanager
    def opened(self, processes: ProcessGroup) -> Iterator[None]:
        """Create the file with room for all scores, and open it in every process. Removes it at the end unless `place` has renamed it.

        Raises UserError if there is no room, before anything is scored.
        """
        # A name that all processes know. Blocks differ in columns, so every process writes to all rows.
        token = processes.gather(torch.randint(2**62, (1,), generator=_unseeded()))[0].item()
        path = self._target
        self.temporary = path.with_name(f".{path.name}.{token:x}.tmp")
        try:
            with self._explained():
                if processes.rank == 0:
                    self._create()
                processes.barrier()
                self._handle = os.open(self.temporary, os.O_WRONLY)
            yield
        finally:
            if self._handle >= 0:
                os.close(self._handle)
            if processes.rank == 0:
                with suppress(OSError):
                    self.temporary.unlink(missing_ok=True)

    def _create(self) -> None:
        make_folder(self._target.parent, OPTION)
        with self.temporary.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            size = int(np.prod(self.shape, dtype=np.int64)) * self._dtype.itemsize
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), file.tell(), size)
            else:
                for first in range(0, size, len(_ZEROS)):
                    file.write(_ZEROS[: size - first])

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Write the block."""
        # The mean over all scores is taken as for the ranks: a mean of means may have other last bits.
        means = [scores_SAB.mean(dim=0) if len(places) == len(scores_SAB) else scores_SAB[places].mean(dim=0) for places in self._chosen]
        exact_MAB = torch.stack(means).detach().cpu().numpy()
        with np.errstate(over="ignore"):
            block_MAB = np.ascontiguousarray(exact_MAB.astype(self._dtype))
        if self._dtype.itemsize < exact_MAB.dtype.itemsize:
            self._check_rounding(exact_MAB, block_MAB, texts, videos)
        rows, columns = len(self._split.answers), len(self._split.videos.ids)
        first, begins = int(videos[0]), self._data_begins()
        with self._explained():
            for m, block_AB in enumerate(block_MAB):
                for text, row_B in zip(texts.tolist(), block_AB, strict=True):
                    _write(self._handle, row_B, begins + ((m * rows + text) * columns + first) * self._dtype.itemsize)

    def _check_rounding(self, exact_MAB: Any, block_MAB: Any, texts: Tensor, videos: Tensor) -> None:
        moved_MAB = np.abs(exact_MAB - block_MAB.astype(exact_MAB.dtype))
        if not np.isfinite(moved_MAB).all():
            m, a, b = np.argwhere(~np.isfinite(moved_MAB))[0]
            caption, video = self._split.texts.texts[int(texts[a])], self._split.videos.ids[int(videos[b])]
            raise UserError(
                f"--save-scores-dtype float16: the score {exact_MAB[m, a, b]:g} of caption {quote(caption)} and video {video} is beyond "
                f"{np.finfo(np.float16).max:g}: use --save-scores-dtype float32"
            )
        self.rounding = torch.maximum(self.rounding, torch.tensor([float(moved_MAB.max())], dtype=torch.float64))

    def _data_begins(self) -> int:
        if not self._begins:
            size = int(np.prod(self.shape, dtype=np.int64)) * self._dtype.itemsize
            self._begins = os.fstat(self._handle).st_size - size
        return self._begins

    def share_answers(self, processes: ProcessGroup) -> None:
        """Nothing: every block is written where it belongs."""

    def share_counts(self, processes: ProcessGroup) -> None:
        """Wait until all processes have written, and share the largest rounding."""
        with self._explained():
            os.fsync(self._handle)
        processes.maximum(self.rounding)
        processes.barrier()

    def place(self, made: dict[str, Any]) -> None:
        """Give the file its name, with the ids and `made` beside it. The matrix is there only with its own ids."""
        split = self._split
        owners = [split.videos.ids[video] for video in split.answers]
        with self._explained():
            # An old matrix would otherwise stand beside new ids if the next steps were cut short.
            self._target.unlink(missing_ok=True)
            self._files.write_beside(split.texts.texts, owners, split.videos.ids, made)
            self.temporary.rename(self._target)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(
                f"{OPTION} {self._files.matrix}: this process does not see the file that process 0 made: name a file on a disk that all "
                "processes share"
            ) from error
        except OSError as error:
            raise cannot_write(self._files.matrix, error, OPTION) from error


def _write(handle: int, values: Any, place: int) -> None:
    content = memoryview(values).cast("B")
    while content:
        count = os.pwrite(handle, content, place)
        content, place = content[count:], place + count


def _unseeded() -> torch.Generator:
    """A generator with a seed of the system's, so that concurrent evaluations choose different names."""
    generator = torch.Generator()
    generator.seed()
    return generator
