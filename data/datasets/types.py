"""What every adapter gives, and how it is put together."""

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
from data.span import WHOLE_FILE, Span, cells_of

SPLITS = ("train", "val", "test")

SEVERAL, SINGLE, PARAGRAPH = "several a video", "one a video", "one paragraph a video"
"""Kinds of captions. With several, each is a query to find its video by, and a video is answered by the best of its own."""


class Count(NamedTuple):
    """Videos and captions that a split has under its protocol; None where nobody states a number."""

    videos: int | None
    captions: int | None = None


@dataclass(frozen=True)
class Preset:
    """A split protocol, the size of its splits, and its recipe: how words and frames are chosen, and how heads are trained on it."""

    name: str
    files: Mapping[str, str]
    """Annotation files by the split that they list; with `held_out`, the training file lists the validation videos too."""
    expected: Mapping[str, Count] = field(default_factory=dict)
    """Sizes of the splits, after `held_out` videos went from train to val; empty for data of the user's own."""
    captions: str = SEVERAL
    max_words: int | None = 32
    """Tokens kept of each caption, start and end included; None for what the model takes."""
    max_frames: int = 12
    """Frames kept of each video, evenly from the first to the last, of those sampled."""
    fps: float = 1.0
    """Frames sampled a second."""
    epochs: int = 5
    """Passes over the training captions."""
    batch_size: int = 128
    """Captions per training step."""
    lr: float = 1e-4
    """Largest learning rate of the head."""
    seconds: str = "whole"
    """The part of each video that is looked at."""
    held_out: int = 0
    """Training videos kept for choosing the epoch, where the protocol has no validation split: those with the smallest hashes."""
    pictures: Literal["display", "stored"] = "stored"
    """Whether pictures are those that a player shows, or as they are stored: see `extract.decode.frames.Sampling`."""
    by_stem: bool = False
    """Whether descriptions go to a listed video by its stem, where the field asks for its exact name (DiDeMo)."""


@dataclass(frozen=True)
class Dataset:
    """A data set under one preset.

    `captions`: columns video_id, caption, split, in the order of the annotations.
    `videos`: a row for every video of the splits, columns video_id, split, file (None where there is none), start and end in seconds
    (see `data.span`; NaN: from the beginning, to the end).
    `notes`: lines about what was left out of the annotation files, and about files that were found by another spelling of their names.
    `sought`: the name by which the file of a video was looked for, where that is not its id.
    `division`: the shares by which the splits were made, where the annotations lacked them: see `data.datasets.division`.
    """

    captions: pd.DataFrame
    videos: pd.DataFrame
    notes: tuple[str, ...] = ()
    sought: Mapping[str, str] = field(default_factory=dict)
    division: str | None = None


class Row(NamedTuple):
    """A caption of a video in a split."""

    video_id: str
    caption: str
    split: str


def listed_rows(preset: Preset, annotations: Path, captions: Mapping[str, list[str]], source: Path) -> Iterator[Row]:
    """The captions of every split's listed videos, in the order of the lists.

    Raises UserError if `captions`, which `source` was read for, lacks some of them.
    """
    for split, name in preset.files.items():
        yield from rows_of(read_ids(annotations / name), split, captions, source, name)


def rows_of(ids: list[str], split: str, captions: Mapping[str, list[str]], source: Path, name: str) -> Iterator[Row]:
    """The captions of these videos, which the list `name` names for a split; see `listed_rows`."""
    without = [video_id for video_id in ids if not captions.get(video_id)]
    if without:
        raise UserError(
            f"{source} has no captions for {len(without)} of the {len(ids)} videos of {name}, such as {quote(without[0])}: "
            f"place the whole file there, or take them out of {name}",
            [f"without captions: {video_id}" for video_id in without],
        )
    for video_id in ids:
        for caption in captions[video_id]:
            yield Row(video_id, caption, split)


def assemble(
    preset: Preset,
    rows: Iterable[Row],
    annotations: Path,
    folder: VideoFolder,
    sought: Callable[[str], Sought],
    spans: Callable[[str], Span] = lambda _video_id: WHOLE_FILE,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """The data set of these captions: the validation videos held out, the file of every video looked for.

    `sought` says what the file of a video may be called, `spans` which part of it is looked at. Raises UserError if a video is
    in two splits, or several files could be one video.
    """
    captions = pd.DataFrame(rows, columns=list(Row._fields))
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
    return Dataset(captions, videos, (*notes, *note_of_spellings(found, folder)))


def note_of_spellings(found: Found, folder: VideoFolder) -> tuple[str, ...]:
    """A line about the files that were found by another spelling of their names, if there are any."""
    if not found.respelt:
        return ()
    name, path = found.respelt[0]
    such = f"such as {quote(folder.relative(path))} for {quote(name)}"
    return (f"{len(found.respelt):,} videos are found under another spelling of their names, {such}",)


def held_out(train: Iterable[str], count: int) -> set[str]:
    """The training videos kept for validation: those whose ids have the smallest hashes, whatever else is in the list."""
    by_hash = sorted(train, key=lambda video_id: hashlib.sha256(video_id.encode()).hexdigest())
    # Of a small list (a trial on part of the data) no more than a tenth.
    return set(by_hash[: min(count, len(by_hash) // 10)])
