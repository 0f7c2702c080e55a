"""What every adapter gives."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Preset:
    """A split protocol, and how many words and frames are kept under it."""

    name: str
    files: dict[str, str]
    """Annotation files by their part in the protocol."""
    max_words: int = 32
    max_frames: int = 12


@dataclass(frozen=True)
class Dataset:
    """A data set under one preset.

    `captions`: columns video_id, caption, split, in the order of the annotations.
    `videos`: a row for every video that the captions speak of, columns video_id, file (None where there is none), start and end in
    seconds (NaN: from the beginning, to the end).
    """

    captions: pd.DataFrame
    videos: pd.DataFrame


def find_file(folder: Path, names: list[str]) -> Path | None:
    """The first of these files that is in the folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def check_video_id(video_id: str, where: Path) -> str:
    """The id, refused where it would lead out of the folder of videos."""
    if not video_id or "/" in video_id or "\\" in video_id or "\0" in video_id or video_id in (".", ".."):
        raise UserError(f"{where}: {video_id!r} is no video id")
    return video_id


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as text, nothing taken for a missing value but an empty cell. Raises UserError where it cannot be read."""
    if not path.is_file():
        raise UserError(f"{path} is missing: place the annotation file there")
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as CSV: {' '.join(str(error).split())}") from error


def require_columns(frame: pd.DataFrame, columns: tuple[str, ...], path: Path) -> None:
    """Raises UserError where a column is missing."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
