"""Data sets: small adapters that turn annotation files as the field distributes them into one table of captions and one of videos."""

from collections.abc import Callable
from pathlib import Path

from data.datasets.msrvtt import PRESETS as MSRVTT_PRESETS
from data.datasets.msrvtt import read_msrvtt
from data.datasets.table import PRESETS as TABLE_PRESETS
from data.datasets.table import read_table
from data.datasets.types import Dataset, Preset
from data.errors import UserError

__all__ = ["ADAPTERS", "Dataset", "Preset", "find_preset", "read_dataset"]

Reader = Callable[[Preset, Path, Path], Dataset]

ADAPTERS: dict[str, tuple[Reader, tuple[Preset, ...]]] = {
    "msrvtt": (read_msrvtt, tuple(p for p in MSRVTT_PRESETS if p.name != "demo")),
    "demo": (read_msrvtt, tuple(p for p in MSRVTT_PRESETS if p.name == "demo")),
    "table": (read_table, TABLE_PRESETS),
}
"""By name of the data set: its reader, and its presets, the default first."""


def find_preset(dataset: str, preset: str | None) -> Preset:
    """A preset of a data set by name; its first one where none is named. Raises UserError for unknown names."""
    if dataset not in ADAPTERS:
        raise UserError(f"--dataset {dataset} is unknown: choose one of {', '.join(ADAPTERS)}")
    presets = ADAPTERS[dataset][1]
    for candidate in presets:
        if preset in (None, candidate.name):
            return candidate
    raise UserError(f"--preset {preset} is unknown for {dataset}: choose one of {', '.join(p.name for p in presets)}")


def read_dataset(dataset: str, preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read a data set's annotations and look for its video files.

    Raises UserError where a folder or an annotation file is missing, malformed or empty.
    """
    if not videos.is_dir():
        raise UserError(f"--videos {videos} is no folder: name the folder that holds the video files")
    if not annotations.exists():
        raise UserError(f"--annotations {annotations} does not exist")
    read = ADAPTERS[dataset][0]
    found = read(preset, annotations, videos)
    if found.captions.empty:
        raise UserError(f"--annotations {annotations} holds no captions for preset {preset.name}")
    return found
