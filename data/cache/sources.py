"""The sources of a cache: folders and tables, each with its last complete listing of videos and captions.

A cache keeps features of every video it ever saw. Which of them are in the gallery of a search, an evaluation or a training is what the
listings say: all of them together, or the one that is named.
"""

import os
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data.base.errors import UserError
from data.base.quoting import path_text, quote
from data.datasets.types import Preset

LONGEST_NAME = 120
"""Bytes of a name, which is part of the names of files."""
MOVED = 0.5
"""Where more than this share of the videos that a source listed is elsewhere now, and its folder or table is gone, it has moved."""
SHARE = re.compile(r"(?P<name>.+)\.(?P<number>\d+)-of-(?P<count>\d+)")
"""What a process is about to list, and what of it is done."""


@dataclass(frozen=True)
class Source:
    """What a listing was read from.

    `origin`: the folder or the annotations, `folder` that of the video files, as absolute paths; None in a listing of format 3.
    `division`: the shares of `--split-by-hash` by which its splits were made, if they were.
    """

    preset: str
    origin: str | None = None
    folder: str | None = None
    division: str | None = None

    @classmethod
    def of(cls, name: str, attributes: Mapping[Any, Any]) -> "Source":
        """From the attributes of a table; one of format 3 has none, and is named as its preset."""
        return cls(attributes.get("preset", name), attributes.get("origin"), attributes.get("folder"), attributes.get("division"))

    def attributes(self) -> dict[Hashable | None, Any]:
        """What a table of it carries."""
        known: dict[Hashable | None, Any] = {"preset": self.preset, "origin": self.origin, "folder": self.folder}
        known["division"] = self.division
        return {key: value for key, value in known.items() if value is not None}


@dataclass(frozen=True)
class Listing:
    """One source with captions, or several of a preset together: their names, and tables as `Listings` has them."""

    names: tuple[str, ...]
    preset: str
    captions: pd.DataFrame
    videos: pd.DataFrame


def source_of(preset: Preset, videos: Path, annotations: Path | None, division: str | None = None) -> Source:
    """The source that an extraction reads; see `Source` for `division`."""
    origin = videos if annotations is None else annotations
    return Source(preset.name, path_text(Path(os.path.abspath(origin))), path_text(Path(os.path.abspath(videos))), division)


def name_of(source: Source, given: str | None, own: bool, there: Mapping[str, Source], listed: Callable[[str], float]) -> str:
    """The name of a source in a cache that has the sources `there`: the one `given`, else that of the folder or table, if it is the user's
    `own`, or of the preset.

    `listed`: the share of the videos of a source there that this one lists too. Raises UserError where a name is none, and where a name
    that was not given is that of another source.
    """
    if given is not None:
        if not re.fullmatch(r"[\w.-]+", given) or given.startswith(".") or len(given.encode()) > LONGEST_NAME or SHARE.fullmatch(given):
            raise UserError(f"--name {quote(given)}: letters, digits, -, _ and . inside, at most {LONGEST_NAME} bytes")
        return given
    if not own:
        return source.preset
    assert source.origin is not None
    if source.preset in there and there[source.preset].origin is None and listed(source.preset) > MOVED:
        return source.preset  # a listing of format 3, which had no other names
    path = Path(source.origin)
    stem = path.name if source.origin == source.folder else path.stem
    name = re.sub(r"[^\w.-]+", "_", stem).encode()[:LONGEST_NAME].decode(errors="ignore").strip("_.-") or source.preset
    name = name.replace(".", "_") if SHARE.fullmatch(name) else name
    before = there.get(name)
    if before is None or (before.preset, before.origin) == (source.preset, source.origin):
        return name
    gone = before.origin is not None and not os.path.exists(before.origin)
    if before.preset == source.preset and gone and listed(name) > MOVED:
        return name
    raise UserError(
        f"the cache has {quote(name)} from {before.origin or before.preset} already: give {source.origin} another --name, or take the "
        f"place of the other with --name {name}"
    )


def together(listings: Sequence[Listing]) -> Listing:
    """Several listings with captions as one: a caption that two of them have of a video is there once.

    Raises UserError where a video is in one split here and in another there.
    """
    if len(listings) == 1:
        return listings[0]
    captions, videos = listings[0].captions, listings[0].videos
    for listing in listings[1:]:
        splits = videos.set_index("video_id")["split"]
        both = listing.videos[listing.videos["video_id"].isin(splits.index)]
        moved = both[both["split"].to_numpy() != splits.loc[both["video_id"]].to_numpy()]
        if not moved.empty:
            video_id, split = moved.iloc[0][["video_id", "split"]]
            raise UserError(
                f"video {quote(video_id)} is in split {split} of {listing.names[0]} and in split {splits[video_id]} of another source: "
                f"choose one with --name, of {', '.join(name for one in listings for name in one.names)}"
            )
        # Within one table, equal captions are several.
        known = pd.MultiIndex.from_frame(captions[["video_id", "caption"]])
        new = ~pd.MultiIndex.from_frame(listing.captions[["video_id", "caption"]]).isin(known)
        captions = pd.concat([captions, listing.captions[new]], ignore_index=True)
        videos = pd.concat([videos, listing.videos[~listing.videos["video_id"].isin(splits.index)]], ignore_index=True)
    return Listing(tuple(name for one in listings for name in one.names), listings[0].preset, captions, videos)
