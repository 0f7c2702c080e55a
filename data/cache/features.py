"""Features read from the cache: ragged, in a given order; in memory, on a device or on disk.

Shape suffixes: N entries, T rows of all entries, R rows of the entries of one batch, M patch tokens of a frame, D joint dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compute.device import room_for
from data.compute.staging import to_device
from data.store.rows import fetch_rows


class Ragged:
    """N matrices of different lengths and one width D, gathered into batches without padding. Rows may have more dimensions: patch tokens
    have one row [M, D] for each frame.

    >>> values_TD = np.array([[0.0], [1.0], [2.0]], dtype=np.float32)
    >>> ragged = Ragged.in_memory(values_TD, offsets=np.array([0, 2, 3]))  # two entries, of 2 rows and 1 row
    >>> ragged.gather([1, 0])
    (tensor([[2.], [0.], [1.]]), tensor([1, 2]))
    """

    def __init__(
        self,
        length_N: NDArray[np.int64],
        values_TD: Tensor | None,
        sources: Sequence[tuple[Any, slice | NDArray[np.int64]]],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.length_N = length_N
        self._first_N = np.cumsum(length_N) - length_N
        self._values_TD = values_TD
        self._sources = sources
        self._close = close

    @classmethod
    def in_memory(cls, values_TD: NDArray[Any], offsets: NDArray[np.int64]) -> "Ragged":
        """From one array of all rows; entry i owns rows offsets[i]:offsets[i + 1]."""
        return cls(np.diff(offsets), torch.from_numpy(values_TD), [])

    @classmethod
    def on_disk(cls, sources: Sequence[Any], rows: Sequence[NDArray[np.int64]], close: Callable[[], None] = lambda: None) -> "Ragged":
        """From array-likes that are read on use; entry i consists of `rows[i]`, in ascending order, of `sources[i]`. `close` closes their
        files."""
        # HDF5 reads a slice several times faster than a list of the same rows.
        selected: list[slice | NDArray[np.int64]] = [slice(r[0], r[-1] + 1) if len(r) and r[-1] - r[0] + 1 == len(r) else r for r in rows]
        return cls(np.array([len(r) for r in rows], dtype=np.int64), None, list(zip(sources, selected, strict=True)), close)

    def close(self) -> None:
        """Close the files of rows on disk, which cannot be read afterwards."""
        self._close()

    def __len__(self) -> int:
        return len(self.length_N)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row, such as [D]."""
        return tuple((self._sources[0][0] if self._values_TD is None else self._values_TD).shape[1:])

    @property
    def dimension(self) -> int:
        """D."""
        return self.row_shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the stored rows."""
        dtype: np.dtype[Any] = self._sources[0][0].dtype if self._values_TD is None else self._values_TD[:0].cpu().numpy().dtype
        return dtype

    @property
    def bytes_held(self) -> int:
        """Bytes of memory in use; 0 if the rows are on disk."""
        return 0 if self._values_TD is None else self._values_TD.nbytes

    def to(self, device: torch.device) -> "Ragged":
        """A copy on a CUDA device if the rows are in memory and the device has room for them; otherwise self."""
        if self._values_TD is None or device.type != "cuda" or self._values_TD.nbytes > room_for(self._values_TD.nbytes, device):
            return self
        return Ragged(self.length_N, self._values_TD.to(device), [])

    def fetch(self, indices: Sequence[int] | NDArray[np.int64]) -> None:
        """Fetch the rows of these entries together, if they are in a store, so that `gather` finds them on this machine."""
        if self._values_TD is None:
            fetch_rows(self._sources[i] for i in np.asarray(indices, dtype=np.int64))

    def gather(self, indices: Sequence[int] | NDArray[np.int64], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """The rows of these entries, concatenated: float32 [R, D] or [R, M, D] on the device; and the length of each entry: int64 [N]."""
        index_N = np.asarray(indices, dtype=np.int64)
        length_N = self.length_N[index_N]
        device = device or torch.device("cpu")
        if self._values_TD is None:
            self.fetch(index_N)
            parts = [source[rows] for source, rows in (self._sources[i] for i in index_N)]
            rows_RD = torch.from_numpy(np.concatenate(parts))
        else:
            within_R = np.arange(length_N.sum()) - np.repeat(np.cumsum(length_N) - length_N, length_N)
            row_R = torch.from_numpy(np.repeat(self._first_N[index_N], length_N) + within_R)
            rows_RD = self._values_TD[to_device(row_R, self._values_TD.device)]
        return to_device(rows_RD, device).float(), torch.from_numpy(length_N)


@dataclass(frozen=True)
class VideoFeatures:
    """Videos: for each, the frame features [F, D] and the times of the frames in seconds [F]."""

    ids: list[str]
    frames: Ragged
    seconds: list[NDArray[np.float64]]
    patches: Ragged | None = None
    """The patch tokens of the same frames, a row [M, D] each; None if they were not asked for."""

    @property
    def bytes_held(self) -> int:
        """Bytes of memory in use."""
        return self.frames.bytes_held + (0 if self.patches is None else self.patches.bytes_held)

    def fetch(self, indices: Sequence[int] | NDArray[np.int64]) -> None:
        """Fetch the features of these videos together: see `Ragged.fetch`."""
        for features in (self.frames, self.patches):
            if features is not None:
                features.fetch(indices)

    def close(self) -> None:
        """Close the files of features on disk: see `Ragged.close`."""
        for features in (self.frames, self.patches):
            if features is not None:
                features.close()

    def to(self, device: torch.device) -> "VideoFeatures":
        """A copy with the features on the device if they fit: see `Ragged.to`."""
        return replace(self, frames=self.frames.to(device), patches=None if self.patches is None else self.patches.to(device))


@dataclass(frozen=True)
class TextFeatures:
    """Texts: for each, the token features [L, D], start and end included, and the sentence feature [1, D]."""

    texts: list[str]
    words: Ragged
    sentences: Ragged

    def to(self, device: torch.device) -> "TextFeatures":
        """A copy with the features on the device if they fit: see `Ragged.to`."""
        return replace(self, words=self.words.to(device), sentences=self.sentences.to(device))
