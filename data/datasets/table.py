"""The user's own data. A CSV or Parquet file with columns video (file name in the folder of videos), caption, split (train, val or test),
and optionally video_id (default: the file name), start and end in seconds; or no more than a folder of videos, to be searched."""

import os
from pathlib import Path

import pandas as pd

from data.containers import is_still, is_video_name
from data.datasets.files import check_caption, is_there, quote, read_csv, require_columns
from data.datasets.folders import Sought, VideoFolder, and_left_alone
from data.datasets.types import SPLITS, Dataset, Preset, note_of_spellings
from data.errors import UserError

PRESETS = (
    Preset("table", {}, pictures="display", max_words=None),
    Preset("folder", {}, captions="none", pictures="display", max_words=None),
)
FOLDER = PRESETS[1]
"""The preset of a plain folder of videos."""

SEARCHED = "search"
"""The split of the videos of a plain folder."""

MAX_NAME = 1000


def read_folder(videos: Path) -> Dataset:
    """Every video file anywhere under the folder that is not hidden, its id the path under it; no captions."""
    folder = VideoFolder(videos)
    named = [path for path in folder.paths if is_video_name(path) and is_there(path)]
    paths = [path for path in named if not is_still(path)]
    lost = [folder.relative(path) for path in folder.paths if is_video_name(path) and path.is_symlink() and not path.exists()]
    astray = f"{len(lost):,} links lead nowhere, such as {lost[0]}" if lost else ""
    if not paths:
        raise UserError(f"--videos {videos} holds no video files{and_left_alone(folder.left_alone(()))}{'; ' * bool(lost)}{astray}")
    ids = [_check_name(folder.relative(path), str(videos)) for path in paths]
    table = pd.DataFrame({"video_id": ids, "split": SEARCHED, "file": paths, "start": float("nan"), "end": float("nan")})
    stills = len(named) - len(paths)
    still = f"{stills:,} GIFs of a single picture are no videos and left alone" if stills else ""
    notes = tuple(note for note in (still, astray) if note)
    return Dataset(pd.DataFrame({"video_id": [], "caption": [], "split": []}, dtype=str), table, notes)


def read_table(annotations: Path, videos: Path) -> Dataset:
    """Read the table file `annotations`; relative file names are looked up in `videos`."""
    frame = _read(annotations)
    if frame.empty:
        raise UserError(f"{annotations} has no rows: every row is a video, a caption and a split")
    if "video_id" not in frame:
        frame = frame.assign(video_id=frame["video"])
    for row, values in enumerate(zip(frame["video_id"], frame["video"], frame["caption"], strict=True), start=1):
        place = f"{annotations}, row {row}"
        for name in values[:2]:
            _check_name(name, place)
        check_caption(values[2], place)
    for column in ("start", "end"):
        said = frame[column] if column in frame else pd.Series("", index=frame.index)
        seconds = pd.to_numeric(said, errors="coerce")
        bad = frame.index[(seconds.isna() & (said != "")) | (seconds < 0) | (seconds > 1e9)]
        if len(bad):
            raise UserError(f"{annotations}, row {bad[0] + 1}: {column} is {quote(said[bad[0]])}, not seconds")
        frame = frame.assign(**{column: seconds.astype(float)})
    unknown = frame.index[~frame["split"].isin(SPLITS)]
    if len(unknown):
        said = frame["split"][unknown[0]]
        raise UserError(f"{annotations}, row {unknown[0] + 1}: split is {quote(said)}, not one of {', '.join(SPLITS)}")
    segments = frame[["video_id", "split", "video", "start", "end"]].drop_duplicates()
    mixed = frame[["video_id", "split"]].drop_duplicates()["video_id"]
    if mixed.duplicated().any():
        raise UserError(f"{annotations}: video {quote(mixed[mixed.duplicated()].iloc[0])} is in several splits")
    twice = segments["video_id"][segments["video_id"].duplicated()]
    if not twice.empty:
        raise UserError(f"{annotations}: video_id {quote(twice.iloc[0])} stands for several files or segments: give each its own id")
    backwards = segments["video_id"][segments["end"] <= segments["start"].fillna(0)]
    if not backwards.empty:
        raise UserError(f"{annotations}: segment {quote(backwards.iloc[0])} ends before it starts")
    names = dict(zip(segments["video_id"], segments["video"], strict=True))
    folder = VideoFolder(videos)
    found = folder.find({video_id: Sought(path=_under(videos, name, annotations)) for video_id, name in names.items()}, str(annotations))
    table = segments[["video_id", "split", "start", "end"]].assign(file=pd.Series(found.files, index=segments.index, dtype=object))
    captions = frame[["video_id", "caption", "split"]].reset_index(drop=True)
    return Dataset(captions, table.reset_index(drop=True), note_of_spellings(found, folder), names)


def _check_name(name: str, place: str) -> str:
    """A file name or an id of the user's own: any text that a file and a table can hold."""
    halves = any("\ud800" <= character <= "\udfff" for character in name)
    if not name.strip() or "\0" in name or halves or len(name) > MAX_NAME:
        raise UserError(f"{place}: {quote(name)} can be no name of a video")
    return name


def _under(videos: Path, name: str, table: Path) -> str:
    """The path under the folder of videos that a table names, relative to that folder or absolute. Raises UserError for any other."""
    path = videos / name
    for place, folder in ((path.absolute(), videos.absolute()), (path.parent.resolve() / path.name, videos.resolve())):
        if Path(os.path.normpath(place)).is_relative_to(os.path.normpath(folder)):
            return os.path.relpath(place, folder)
    raise UserError(f"{table}: video {quote(name)} lies outside of --videos {videos}")


def _read(path: Path) -> pd.DataFrame:
    columns = ("video", "caption", "split")
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            frame = pd.read_parquet(path)
        except (ValueError, OSError) as error:
            raise UserError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error
        require_columns(frame, columns, path)
        return frame.reset_index(drop=True).astype(object).where(frame.notna(), "").astype(str)
    if path.suffix.lower() == ".csv":
        return read_csv(path, columns)
    raise UserError(f"--annotations {path}: a table is a .csv or .parquet file")
