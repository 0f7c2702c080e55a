"""Features as the cache gives them: ragged, in a given order, in memory or on disk.

Shape suffixes: N entries, T rows of all entries together, L rows of the longest entry of a batch, D joint dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Ragged:
    """N matrices of different lengths and one width D, gathered into padded batches."""

    def __init__(self, length_N: NDArray[np.int64], rows: Callable[[int], NDArray[Any]], dimension: int, bytes_held: int = 0) -> None:
        self.length_N = length_N
        self.bytes_held = bytes_held
        self._rows = rows
        self._dimension = dimension

    @classmethod
    def in_memory(cls, values_TD: NDArray[Any], offsets: NDArray[np.int64]) -> "Ragged":
        """From one array of all rows; entry i has the rows offsets[i] to offsets[i + 1]."""
        return cls(np.diff(offsets), lambda i: values_TD[offsets[i] : offsets[i + 1]], values_TD.shape[1], values_TD.nbytes)

    @classmethod
    def on_disk(cls, sources: Sequence[Any], rows: Sequence[NDArray[np.int64]]) -> "Ragged":
        """From array-likes that are read when they are used; entry i has the ascending `rows[i]` of `sources[i]`."""
        lengths = np.array([len(r) for r in rows], dtype=np.int64)
        return cls(lengths, lambda i: sources[i][rows[i]], sources[0].shape[1] if sources else 0)

    def __len__(self) -> int:
        return len(self.length_N)

    def gather(self, indices: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The entries with these indices as one array [N, L, D] of float32, zero behind each end, and their lengths [N]."""
        index_N = np.asarray(indices, dtype=np.int64)
        length_N = self.length_N[index_N]
        padded_NLD = np.zeros((len(index_N), int(length_N.max(initial=0)), self._dimension), dtype=np.float32)
        for row, index in enumerate(index_N):
            padded_NLD[row, : length_N[row]] = self._rows(int(index))
        return padded_NLD, length_N


@dataclass(frozen=True)
class VideoFeatures:
    """Frames of videos: features [F, D] and times in seconds [F] of each."""

    ids: list[str]
    frames: Ragged
    seconds: list[NDArray[np.float64]]


@dataclass(frozen=True)
class TextFeatures:
    """Texts: features [L, D] of all tokens (start and end included) and the sentence feature [1, D] of each."""

    texts: list[str]
    words: Ragged
    sentences: Ragged
