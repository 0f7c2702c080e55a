"""The user's own data: a CSV or Parquet file with columns video (file name in the folder of videos), caption, split (train, val or
test), and optionally video_id (default: the file name), start and end in seconds."""

import os
from pathlib import Path

import pandas as pd

from data.datasets.types import SPLITS, Dataset, Preset, read_csv, require_columns
from data.errors import UserError

PRESETS = (Preset("table", {}),)


def read_table(preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read the table file `annotations`; relative file names are looked up in `videos`."""
    frame = _read(annotations)
    require_columns(frame, ("video", "caption", "split"), annotations)
    if frame.empty:
        raise UserError(f"{annotations} has no rows: every row is a video, a caption and a split")
    if "video_id" not in frame:
        frame = frame.assign(video_id=frame["video"])
    for column in ("start", "end"):
        said = frame[column] if column in frame else pd.Series("", index=frame.index)
        seconds = pd.to_numeric(said, errors="coerce")
        bad = frame.index[seconds.isna() & (said != "")]
        if len(bad):
            raise UserError(f"{annotations}, row {bad[0] + 1}: {column} is {said[bad[0]]!r}, not seconds")
        frame = frame.assign(**{column: seconds.astype(float)})
    unknown = frame.index[~frame["split"].isin(SPLITS)]
    if len(unknown):
        raise UserError(f"{annotations}, row {unknown[0] + 1}: split is {frame['split'][unknown[0]]!r}, not one of {', '.join(SPLITS)}")
    segments = frame[["video_id", "video", "start", "end"]].drop_duplicates()
    twice = segments["video_id"][segments["video_id"].duplicated()]
    if not twice.empty:
        raise UserError(f"{annotations}: video_id {twice.iloc[0]!r} stands for several files or segments: give each its own id")
    mixed = frame[["video_id", "split"]].drop_duplicates()["video_id"]
    if mixed.duplicated().any():
        raise UserError(f"{annotations}: video {mixed[mixed.duplicated()].iloc[0]!r} is in several splits")
    backwards = segments["video_id"][segments["end"] <= segments["start"].fillna(0)]
    if not backwards.empty:
        raise UserError(f"{annotations}: segment {backwards.iloc[0]!r} ends before it starts")
    files = [_inside(videos, name, annotations) for name in segments["video"]]
    table = segments[["video_id", "start", "end"]].assign(file=pd.Series(files, index=segments.index, dtype=object)).reset_index(drop=True)
    return Dataset(frame[["video_id", "caption", "split"]].reset_index(drop=True), table)


def _inside(videos: Path, name: str, table: Path) -> Path | None:
    path = videos / name
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(videos)):
        raise UserError(f"{table}: video {name!r} lies outside of --videos {videos}")
    return path if path.is_file() else None


def _read(path: Path) -> pd.DataFrame:
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            frame = pd.read_parquet(path)
        except (ValueError, OSError) as error:
            raise UserError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())}") from error
        return frame.astype(object).where(frame.notna(), "").astype(str)
    if path.suffix.lower() == ".csv":
        return read_csv(path)
    raise UserError(f"--annotations {path}: a table is a .csv or .parquet file")
