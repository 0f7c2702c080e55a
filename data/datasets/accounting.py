"""Account for a data set: the videos and captions that its protocol expects, that the annotations list, and that have a file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.base.errors import UserError
from data.datasets.folders import VideoFolder, and_left_alone
from data.datasets.types import Count, Dataset, Preset

Counts = dict[str, int]
LISTS_ALL = "python -m data.check --json lists all"


def count_listed(captions: pd.DataFrame, videos: pd.DataFrame, preset: Preset | None, splits: Sequence[str]) -> Counts:
    """Videos expected, listed and present, and captions expected and listed, summed over these splits.

    captions, videos: the tables of a `Dataset`.

    If the protocol states no number, the listed number counts as expected.
    """
    counts = dict.fromkeys(("videos_expected", "videos_listed", "videos_present", "captions_expected", "captions_listed"), 0)
    for split in splits:
        listed = videos[videos["split"] == split]
        count = int((captions["split"] == split).sum())
        stated = preset.expected.get(split, Count(None)) if preset else Count(None)
        counts["videos_expected"] += len(listed) if stated.videos is None else stated.videos
        counts["videos_listed"] += len(listed)
        counts["videos_present"] += int(listed["file"].notna().sum())
        counts["captions_expected"] += count if stated.captions is None else stated.captions
        counts["captions_listed"] += count
    return counts


def splits_of(dataset: Dataset, preset: Preset) -> dict[str, Counts]:
    """The counts of every split of the protocol or the annotations."""
    splits = list(dict.fromkeys([*preset.expected, *dataset.videos["split"]]))
    return {split: count_listed(dataset.captions, dataset.videos, preset, [split]) for split in splits}


def as_expected(counts: Counts) -> bool:
    """Whether the annotations list as many videos and captions as the protocol expects."""
    return all(counts[f"{kind}_listed"] == counts[f"{kind}_expected"] for kind in ("videos", "captions"))


def missing_videos(dataset: Dataset) -> list[str]:
    """The videos without a file."""
    return list(dataset.videos.loc[dataset.videos["file"].isna(), "video_id"])


def empty_captions(dataset: Dataset) -> list[str]:
    """The video of every blank caption."""
    return list(dataset.captions.loc[dataset.captions["caption"].str.strip() == "", "video_id"])


def left_alone(dataset: Dataset, folder: Path) -> dict[str, int]:
    """The number of files under the folder that are not part of the data set, by suffix, and of hidden ones."""
    return VideoFolder(folder).left_alone(dataset.videos["file"].dropna())


def summary_line(dataset: Dataset, preset: Preset, folder: Path) -> str:
    """One line that counts what is present, split by split."""
    parts = [
        f"{split} {counts['videos_present']:,} of {counts['videos_expected']:,} videos"
        + (f" and {counts['captions_listed']:,} of {counts['captions_expected']:,} captions" if counts["captions_expected"] else "")
        for split, counts in splits_of(dataset, preset).items()
    ]
    return f"{preset.name}: {', '.join(parts)} are there{and_left_alone(left_alone(dataset, folder))}"


def report(name: str, dataset: Dataset, preset: Preset, folder: Path) -> dict[str, Any]:
    """The whole account as JSON values."""
    splits, missing, empty = splits_of(dataset, preset), missing_videos(dataset), empty_captions(dataset)
    return {
        "dataset": name,
        "preset": preset.name,
        "complete": not missing and not empty and all(map(as_expected, splits.values())),
        "splits": splits,
        "missing": missing,
        "empty_captions": empty,
        "left_alone": left_alone(dataset, folder),
        "notes": list(dataset.notes),
    }


def require_complete(dataset: Dataset, preset: Preset, folder: Path) -> None:
    """Raise UserError, with a list and the remedy, if a split differs from its protocol, a file is missing or a caption is blank."""
    for split, counts in splits_of(dataset, preset).items():
        if not as_expected(counts):
            raise UserError(f"{difference(preset.name, split, counts)}: place the whole annotation files, or go on with --allow-missing")
    missing = missing_videos(dataset)
    if len(missing) == len(dataset.videos):
        raise UserError(
            f"none of the {len(missing):,} videos has a file in {folder}, such as {_near(dataset, missing[0], folder)}: "
            "name the folder that holds them with --videos, or go on with the captions alone with --allow-missing"
        )
    if missing:
        raise UserError(
            f"{len(missing)} of {len(dataset.videos)} videos have no file in {folder}, such as "
            f"{', '.join([*missing[1:3], _near(dataset, missing[0], folder)])}: add them, or go on without them with --allow-missing",
            [f"missing: {video_id}" for video_id in missing],
            LISTS_ALL,
        )
    empty = empty_captions(dataset)
    if empty:
        raise UserError(
            f"{len(empty)} captions are empty, such as one of video {empty[0]}: write them, or go on without them with --allow-missing",
            [f"empty caption of: {video_id}" for video_id in empty],
            LISTS_ALL,
        )


def _near(dataset: Dataset, video_id: str, folder: Path) -> str:
    """The expected file name of a missing video, and the most similar names in the folder."""
    name = dataset.sought.get(video_id, video_id)
    if os.path.isdir(folder / name):
        return f"{name}, which is a folder"
    if os.path.islink(folder / name):
        return f"{name}, which is a broken link"
    near = VideoFolder(folder).near(name)
    return f"{name}; near it: {', '.join(near)}" if near else name


def difference(preset: str, split: str, counts: Counts) -> str:
    """What the annotations list and what the protocol expects."""
    listed = f"{counts['videos_listed']:,} videos and {counts['captions_listed']:,} captions"
    return f"{preset} lists {listed} for split {split}, not {counts['videos_expected']:,} and {counts['captions_expected']:,}"
