"""Data sets: adapters that turn annotation files, as the field distributes them, into a table of captions and a table of videos."""

from collections.abc import Callable
from pathlib import Path

from data.base.errors import UserError
from data.datasets.adapters import activitynet, didemo, lsmdc, msrvtt, msvd, table, vatex
from data.datasets.division import Shares, shares_of
from data.datasets.types import Count, Dataset, Preset

__all__ = ["ADAPTERS", "Count", "Dataset", "Preset", "Shares", "find_preset", "preset_named", "read_dataset", "shares_of"]

Reader = Callable[[Preset, Path, Path], Dataset]


def _read_table(_preset: Preset, annotations: Path, videos: Path) -> Dataset:
    return table.read_table(annotations, videos)


ADAPTERS: dict[str, tuple[Reader, tuple[Preset, ...]]] = {
    "msrvtt": (msrvtt.read_msrvtt, msrvtt.PRESETS),
    "didemo": (didemo.read_didemo, didemo.PRESETS),
    "vatex": (vatex.read_vatex, vatex.PRESETS),
    "msvd": (msvd.read_msvd, msvd.PRESETS),
    "lsmdc": (lsmdc.read_lsmdc, lsmdc.PRESETS),
    "activitynet": (activitynet.read_activitynet, activitynet.PRESETS),
    "demo": (msrvtt.read_msrvtt, msrvtt.DEMO_PRESETS),
    "table": (_read_table, table.PRESETS),
}
"""By name of the data set: its reader and its presets, with the default first."""


def find_preset(dataset: str, preset: str | None, annotations: Path | None) -> Preset:
    """The preset of this name; by default the data set's first, or `folder` for `table` without annotations.

    Raises UserError for unknown names, and if annotations are missing or superfluous.
    """
    if dataset not in ADAPTERS:
        raise UserError(f"--dataset {dataset} is unknown: choose one of {', '.join(ADAPTERS)}")
    presets = ADAPTERS[dataset][1]
    if preset is None and dataset == "table" and annotations is None:
        return table.FOLDER
    chosen = next((candidate for candidate in presets if preset in (None, candidate.name)), None)
    if chosen is None:
        raise UserError(f"--preset {preset} is unknown for {dataset}: choose one of {', '.join(p.name for p in presets)}")
    if chosen == table.FOLDER and annotations is not None:
        raise UserError(f"--preset {chosen.name} is a folder of videos without captions: leave out --annotations, or --preset")
    if chosen != table.FOLDER and annotations is None:
        raise UserError(f"--annotations is missing: name the annotation files of {dataset}")
    return chosen


def preset_named(name: str) -> Preset | None:
    """The preset of this name, of any data set; None if there is none."""
    return next((preset for _, presets in ADAPTERS.values() for preset in presets if preset.name == name), None)


def read_dataset(dataset: str, preset: Preset, annotations: Path | None, videos: Path, shares: Shares | None = None) -> Dataset:
    """Read a data set's annotations and find its video files by name, without opening them.

    shares: how to divide a table's videos into the splits that it lacks.

    Raises UserError if a folder or an annotation file is missing, malformed or empty, or if the data set cannot be divided by `shares`.
    """
    if shares is not None and (dataset != "table" or annotations is None):
        what = "videos without captions" if annotations is None else f"{dataset}, which has its own splits"
        raise UserError(f"--split-by-hash is for a table of your own, not for {what}: leave it out")
    if not videos.is_dir():
        raise UserError(f"--videos {videos} is not a folder: name the folder that holds the video files")
    if annotations is None:
        return table.read_folder(videos)
    if not annotations.exists():
        raise UserError(f"--annotations {annotations} does not exist")
    if dataset != "table" and not annotations.is_dir():
        raise UserError(f"--annotations {annotations} is not a folder: name the folder that holds the annotation files of {dataset}")
    divided = shares is not None
    found = table.read_table(annotations, videos, shares) if divided else ADAPTERS[dataset][0](preset, annotations, videos)
    if found.captions.empty:
        raise UserError(f"--annotations {annotations} holds no captions for preset {preset.name}")
    return found
