"""Options of `python -m data.import_features` and `python -m data.export_features`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.cli.command_line import About


@dataclass(frozen=True)
class ImportOptions:
    """Import features of frames, words and patches from NumPy, HDF5, Parquet or safetensors files into a cache. Run it again to resume or
    add."""

    cache: Annotated[Path, About.CACHE]
    """Folder of the cache. It is created if missing, and extended if it holds imported features."""
    frames: Annotated[Path | None, About.INPUT] = None
    """Frame features [frames, D] of each video: a folder of .npy or .npz files, or one .h5, .safetensors or .parquet file."""
    texts: Annotated[Path | None, About.INPUT] = None
    """Token features [tokens, D] and a sentence feature [D] of each text, or the sentence feature alone: the same forms."""
    patches: Annotated[Path | None, About.INPUT] = None
    """Patch tokens [frames, tokens, D] of the frames in --frames: the same forms. Every frame has as many."""
    table: Annotated[Path | None, About.INPUT] = None
    """Table with the columns video, caption and split, as for extract. Without it, every video is imported for search."""
    about: Annotated[Path | None, About.INPUT] = None
    """JSON file that says what is known about the CLIP: model, pretrained, weights, logit_scale, context_length, preprocessing. Default:
    that of the cache, or nothing."""
    fps: Annotated[float | None, About.INPUT] = None
    """Frames per second, for videos whose features come without times. Default: 1."""
    split_by_hash: Annotated[str | None, About.INPUT] = None
    """TRAIN,VAL,TEST, such as 80,10,10: split a table that has no column split in this ratio, as extract does."""
    name: Annotated[str | None, About.INPUT] = None
    """Name of this source in the cache. Default: the name of the table, or of the folder or file of features."""
    dtype: Annotated[Literal["float16", "float32"] | None, About.CACHE] = None
    """Data type of the cached features. Default: the cache's; for a new one float16 if all features are, else float32."""
    replace: Annotated[bool, About.CACHE] = False
    """Write again what the cache has already. Otherwise texts in the cache stay, and videos unless their file has changed."""
    prune: Annotated[bool, About.CACHE] = False
    """Afterwards, remove from the cache what no source lists any more."""
    allow_missing: Annotated[bool, About.FAILURES] = False
    """Go on without features of some videos or captions of the table."""
    dry_run: Annotated[bool, About.OUTPUT] = False
    """Only check names, shapes and settings, and count what would be imported. Write nothing."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Do not print progress."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the result as one JSON line on standard output."""


@dataclass(frozen=True)
class ExportOptions:
    """Export the features of a cache, in files that numpy, torch and pandas read, and that data.import_features reads back."""

    cache: Annotated[Path, tyro.conf.Positional]
    """Folder of the cache, or a merged file."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write: videos/, texts/ and patches/ with features, a table of each source, and about.json. It must be new or empty."""
    form: Annotated[Literal["safetensors", "npz", "parquet"], About.OUTPUT] = "safetensors"
    """safetensors or parquet: files of about 64 MiB. npz: one file for each video and text."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Do not print progress."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the result as one JSON line on standard output."""
