"""Features in files that several processes map into their memory, where they are once for all.

Shape suffixes: N entries, T rows of all entries together, D joint dimension.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.base.writable import cannot_write
from data.cache.features import Ragged, TextFeatures, VideoFeatures

ENTRIES_AT_ONCE = 1024


class MappedRagged(Ragged):
    """N matrices in a file of all rows [T, D]. Given to another process it is the name of the file, which must stay until then."""

    def __init__(self, path: Path, length_N: NDArray[np.int64]) -> None:
        # "c": written to or not, the file stays as it is, and torch warns of arrays that cannot be written to.
        super().__init__(length_N, torch.from_numpy(np.load(path, mmap_mode="c")), [])
        self.path = path

    def __reduce__(self) -> tuple[type["MappedRagged"], tuple[Path, NDArray[np.int64]]]:
        return MappedRagged, (self.path, self.length_N)


def map_ragged(ragged: Ragged, path: Path) -> MappedRagged:
    """Write the rows to a new file, in memory or on disk as they are, and map it. Raises UserError where the disk is full."""
    shape = int(ragged.length_N.sum()), ragged.dimension
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(ragged.dtype)), "fortran_order": False, "shape": shape}
    try:
        # Written and not mapped: a full disk kills whoever writes into a mapped file.
        with path.open("wb") as file:
            np.lib.format.write_array_header_2_0(file, header)
            for entry in range(0, len(ragged), ENTRIES_AT_ONCE):
                rows_RD = ragged.gather(range(entry, min(entry + ENTRIES_AT_ONCE, len(ragged))))[0]
                file.write(rows_RD.numpy().astype(ragged.dtype).tobytes())
    except OSError as error:
        raise cannot_write(path.parent, error, "--out") from error
    return MappedRagged(path, ragged.length_N)


def map_texts(texts: TextFeatures, folder: Path) -> TextFeatures:
    """The same with words and sentences in files of the folder."""
    return replace(
        texts, words=map_ragged(texts.words, folder / "words.npy"), sentences=map_ragged(texts.sentences, folder / "sentences.npy")
    )


def map_videos(videos: VideoFeatures, folder: Path) -> VideoFeatures:
    """The same with frames in a file of the folder."""
    return replace(videos, frames=map_ragged(videos.frames, folder / "frames.npy"))
