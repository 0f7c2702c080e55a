"""Features in memory-mapped files, so that several processes share one copy.

Shape suffixes: N entries, T rows of all entries, R rows of some entries, D joint dimension.
"""

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.base.writable import cannot_write
from data.cache.features import Ragged, TextFeatures, VideoFeatures

BYTES_AT_ONCE = 2**26
"""Most bytes of float32 rows in memory while a file is written; a single entry may have more."""


class MappedRagged(Ragged):
    """N matrices in a file of all rows, [T, D] or of more dimensions.

    Pickling stores only the path, so the file must still exist when it is unpickled.
    """

    def __init__(self, path: Path, length_N: NDArray[np.int64]) -> None:
        # "c" (copy on write), not "r": torch warns about read-only arrays. The file never changes.
        super().__init__(length_N, torch.from_numpy(np.load(path, mmap_mode="c")), [])
        self.path = path

    def __reduce__(self) -> tuple[type["MappedRagged"], tuple[Path, NDArray[np.int64]]]:
        return MappedRagged, (self.path, self.length_N)


def map_ragged(ragged: Ragged, path: Path) -> MappedRagged:
    """Write the rows, from memory or disk, to a new file and map it. Raises UserError if the disk is full."""
    shape = int(ragged.length_N.sum()), *ragged.row_shape
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(ragged.dtype)), "fortran_order": False, "shape": shape}
    try:
        # Write the file before mapping it: on a full disk, writing into a mapped file kills the process.
        with path.open("wb") as file:
            np.lib.format.write_array_header_2_0(file, header)
            longest = int(ragged.length_N.max(initial=1)) * prod(ragged.row_shape) * np.dtype(np.float32).itemsize
            at_once = max(1, BYTES_AT_ONCE // longest)
            for entry in range(0, len(ragged), at_once):
                rows_RD = ragged.gather(range(entry, min(entry + at_once, len(ragged))))[0]
                file.write(rows_RD.numpy().astype(ragged.dtype).tobytes())
    except OSError as error:
        raise cannot_write(path.parent, error, "--out") from error
    return MappedRagged(path, ragged.length_N)


def map_texts(texts: TextFeatures, folder: Path) -> TextFeatures:
    """A copy whose words and sentences are mapped from files in the folder."""
    return replace(
        texts, words=map_ragged(texts.words, folder / "words.npy"), sentences=map_ragged(texts.sentences, folder / "sentences.npy")
    )


def map_videos(videos: VideoFeatures, folder: Path) -> VideoFeatures:
    """A copy whose frames and patch tokens are mapped from files in the folder."""
    patches = None if videos.patches is None else map_ragged(videos.patches, folder / "patches.npy")
    return replace(videos, frames=map_ragged(videos.frames, folder / "frames.npy"), patches=patches)
