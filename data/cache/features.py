"""Features as the cache gives them: ragged, in a given order, in memory, on a device or on disk.

Shape suffixes: N entries, T rows of all entries together, R rows of the entries of a batch together, D joint dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SPARE = 0.5
"""Share of a device's free memory that features may take; the rest is for the work."""


class Ragged:
    """N matrices of different lengths and one width D, gathered into batches without padding."""

    def __init__(
        self, length_N: NDArray[np.int64], values_TD: Tensor | None, sources: Sequence[tuple[Any, slice | NDArray[np.int64]]]
    ) -> None:
        self.length_N = length_N
        self._first_N = np.cumsum(length_N) - length_N
        self._values_TD = values_TD
        self._sources = sources

    @classmethod
    def in_memory(cls, values_TD: NDArray[Any], offsets: NDArray[np.int64]) -> "Ragged":
        """From one array of all rows; entry i has the rows offsets[i] to offsets[i + 1]."""
        return cls(np.diff(offsets), torch.from_numpy(values_TD), [])

    @classmethod
    def on_disk(cls, sources: Sequence[Any], rows: Sequence[NDArray[np.int64]]) -> "Ragged":
        """From array-likes that are read when they are used; entry i has the ascending `rows[i]` of `sources[i]`."""
        # HDF5 reads a slice several times as fast as the same rows named one by one.
        selected: list[slice | NDArray[np.int64]] = [slice(r[0], r[-1] + 1) if len(r) and r[-1] - r[0] + 1 == len(r) else r for r in rows]
        return cls(np.array([len(r) for r in rows], dtype=np.int64), None, list(zip(sources, selected, strict=True)))

    def __len__(self) -> int:
        return len(self.length_N)

    @property
    def dimension(self) -> int:
        """D."""
        return int((self._sources[0][0] if self._values_TD is None else self._values_TD).shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The number format of the rows where they lie."""
        dtype: np.dtype[Any] = self._sources[0][0].dtype if self._values_TD is None else self._values_TD[:0].cpu().numpy().dtype
        return dtype

    @property
    def bytes_held(self) -> int:
        """Memory that it takes: none where it is read from disk."""
        return 0 if self._values_TD is None else self._values_TD.nbytes

    def to(self, device: torch.device) -> "Ragged":
        """The same on a CUDA device, where it is in memory and the device has room for it; else as it is."""
        if self._values_TD is None or device.type != "cuda" or self._values_TD.nbytes > _SPARE * torch.cuda.mem_get_info(device)[0]:
            return self
        return Ragged(self.length_N, self._values_TD.to(device), [])

    def gather(self, indices: Sequence[int] | NDArray[np.int64], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """The rows of the entries with these indices, one entry after the other [R, D] as float32 on the device, and their lengths [N]."""
        index_N = np.asarray(indices, dtype=np.int64)
        length_N = self.length_N[index_N]
        device = device or torch.device("cpu")
        if self._values_TD is None:
            parts = [source[rows] for source, rows in (self._sources[i] for i in index_N)]
            rows_RD = torch.from_numpy(np.concatenate(parts))
        else:
            within_R = np.arange(length_N.sum()) - np.repeat(np.cumsum(length_N) - length_N, length_N)
            row_R = torch.from_numpy(np.repeat(self._first_N[index_N], length_N) + within_R)
            rows_RD = self._values_TD[row_R.to(self._values_TD.device)]
        return rows_RD.to(device).float(), torch.from_numpy(length_N)


@dataclass(frozen=True)
class VideoFeatures:
    """Frames of videos: features [F, D] and times in seconds [F] of each."""

    ids: list[str]
    frames: Ragged
    seconds: list[NDArray[np.float64]]

    def to(self, device: torch.device) -> "VideoFeatures":
        """The same with features on the device where they fit: see `Ragged.to`."""
        return replace(self, frames=self.frames.to(device))


@dataclass(frozen=True)
class TextFeatures:
    """Texts: features [L, D] of all tokens (start and end included) and the sentence feature [1, D] of each."""

    texts: list[str]
    words: Ragged
    sentences: Ragged

    def to(self, device: torch.device) -> "TextFeatures":
        """The same with features on the device where they fit: see `Ragged.to`."""
        return replace(self, words=self.words.to(device), sentences=self.sentences.to(device))
