"""The types that adapters return, and the steps they share."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import read_ids
from data.datasets.folders import Found, Sought, VideoFolder
from data.datasets.kinds import if_any, note_of_kinds
from data.span import WHOLE_FILE, Span, cells_of

SPLITS = ("train", "val", "test")

SEVERAL, SINGLE, PARAGRAPH = "several a video", "one a video", "one paragraph a video"
"""Kinds of captions. With several, each caption is a query for its video, and the best of a video's captions counts as its answer."""


class Count(NamedTuple):
    """The number of videos and captions of a split under its protocol; None if no source states it."""

    videos: int | None
    captions: int | None = None


@dataclass(frozen=True)
class Preset:
    """A split protocol, the sizes of its splits, and its recipe for sampling words and frames and for training heads."""

    name: str
    files: Mapping[str, str]
    """Annotation file of each split. With `held_out`, the training file lists the validation videos too."""
    expected: Mapping[str, Count] = field(default_factory=dict)
    """Sizes of the splits, after moving `held_out` videos from train to val; empty for the user's own data."""
    captions: str = SEVERAL
    max_words: int | None = 32
    """Tokens kept of each caption, start and end included; None for the model's limit."""
    max_frames: int = 12
    """Frames kept of the sampled frames of each video, evenly spaced from the first to the last."""
    fps: float = 1.0
    """Frames sampled per second."""
    epochs: int = 5
    """Passes over the training captions."""
    batch_size: int = 128
    """Captions per training step."""
    lr: float = 1e-4
    """Largest learning rate of the head."""
    seconds: str = "whole"
    """The part of each video that is sampled, in seconds."""
    held_out: int = 0
    """Training videos held out to choose the epoch if the protocol has no validation split: those whose ids have the smallest hashes."""
    pictures: Literal["display", "stored"] = "stored"
    """Whether frames look as in a player, or as stored: see `extract.decode.frames.Sampling`."""
    by_stem: bool = False
    """Match descriptions to listed videos by stem; the field requires the exact name (DiDeMo)."""


@dataclass(frozen=True)
class Dataset:
    """A data set under one preset.

    captions: columns video_id, caption, split, in the order of the annotations; and kind, if any has one (see `data.datasets.kinds`).
    videos: one row per video of the splits; columns video_id, split, file (None if there is none), start and end in seconds (see
        `data.span`; NaN is the start or the end of the file).
    notes: lines about annotations that were left out, and about files found under another spelling of their names.
    sought: the file name that the annotations give for a video, if it is not the id.
    division: the shares that made the splits, if the annotations lacked them: see `data.datasets.division`.
    """

    captions: pd.DataFrame
    videos: pd.DataFrame
    notes: tuple[str, ...] = ()
    sought: Mapping[str, str] = field(default_factory=dict)
    division: str | None = None


class Row(NamedTuple):
    """One caption, its video, its split, and its kind: see `data.datasets.kinds`."""

    video_id: str
    caption: str
    split: str
    kind: str = ""


def listed_rows(preset: Preset, annotations: Path, captions: Mapping[str, list[str]], source: Path) -> Iterator[Row]:
    """The captions of the listed videos of every split, in the order of the lists.

    Raises UserError if `captions`, which come from the file `source`, lack a listed video.
    """
    for split, name in preset.files.items():
        yield from rows_of(read_ids(annotations / name), split, captions, source, name)


def rows_of(
    ids: list[str],
    split: str,
    captions: Mapping[str, list[str]],
    source: Path,
    name: str,
    kinds: Mapping[str, list[str]] | None = None,
) -> Iterator[Row]:
    """The captions of these videos of one split, which the file `name` lists; see `listed_rows`. `kinds`: the kind of each caption."""
    without = [video_id for video_id in ids if not captions.get(video_id)]
    if without:
        raise UserError(
            f"{source} has no captions for {len(without)} of the {len(ids)} videos of {name}, such as {quote(without[0])}: "
            f"place the whole file there, or take them out of {name}",
            [f"without captions: {video_id}" for video_id in without],
        )
    for video_id in ids:
        of_video = captions[video_id]
        for caption, kind in zip(of_video, [""] * len(of_video) if kinds is None else kinds[video_id], strict=True):
            yield Row(video_id, caption, split, kind)


def assemble(
    preset: Preset,
    rows: Iterable[Row],
    annotations: Path,
    folder: VideoFolder,
    sought: Callable[[str], Sought],
    spans: Callable[[str], Span] = lambda _video_id: WHOLE_FILE,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Build a data set from captions: hold out validation videos, and find the file of every video.

    sought: the possible file names of a video, by id.
    spans: the part of a video to sample, by id.

    Raises UserError if a video is in two splits, or if several files match one video.
    """
    captions = if_any(pd.DataFrame(rows, columns=list(Row._fields)))
    if preset.held_out:
        kept = held_out(captions.loc[captions["split"] == "train", "video_id"].unique(), preset.held_out)
        captions.loc[captions["video_id"].isin(kept) & (captions["split"] == "train"), "split"] = "val"
    videos = captions[["video_id", "split"]].drop_duplicates(ignore_index=True)
    shared = videos["video_id"][videos["video_id"].duplicated()]
    if not shared.empty:
        raise UserError(f"{annotations}: {shared.iloc[0]} is in two splits of {preset.name}")
    ids = videos["video_id"]
    found = folder.find({video_id: sought(video_id) for video_id in ids}, str(annotations))
    files = pd.Series(found.files, index=videos.index, dtype=object)
    videos = videos.assign(file=files, **cells_of(spans(video_id) for video_id in ids))
    return Dataset(captions, videos, (*notes, *note_of_spellings(found, folder), *note_of_kinds(captions)))


def note_of_spellings(found: Found, folder: VideoFolder) -> tuple[str, ...]:
    """A line about the files that were found under another spelling of their names, if any."""
    if not found.respelt:
        return ()
    name, path = found.respelt[0]
    such = f"such as {quote(folder.relative(path))} for {quote(name)}"
    return (f"{len(found.respelt):,} videos are found under another spelling of their names, {such}",)


def held_out(train: Iterable[str], count: int) -> set[str]:
    """The training videos to hold out for validation: those whose ids have the smallest hashes."""
    by_hash = sorted(train, key=lambda video_id: hashlib.sha256(video_id.encode()).hexdigest())
    # At most a tenth of a small list, such as a trial on part of the data.
    return set(by_hash[: min(count, len(by_hash) // 10)])
