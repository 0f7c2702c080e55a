"""The sources of a cache: folders and tables, each with its last complete listing of videos and captions.

A cache keeps the features of every video it ever saw. The listings decide which of them a search, an evaluation or a training uses: those
of all sources, or of the one given by name.
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
from data.datasets.kinds import if_any, with_kinds
from data.datasets.types import Preset

LONGEST_NAME = 120
"""Most bytes of a source's name, which becomes part of file names."""
MOVED = 0.5
"""A source whose folder or table is gone has moved if more than this fraction of its videos is found in the new place."""
SHARE = re.compile(r"(?P<name>.+)\.(?P<number>\d+)-of-(?P<count>\d+)")
"""Name of a share: the pending listing of one process; see `data.cache.listings`."""


@dataclass(frozen=True)
class Source:
    """The origin of a listing.

    origin: absolute path of the folder or of the annotations; None in a listing of format 3.
    folder: absolute path of the folder of video files; None in a listing of format 3.
    division: the shares of `--split-by-hash` that made the splits, if any.
    """

    preset: str
    origin: str | None = None
    folder: str | None = None
    division: str | None = None

    @classmethod
    def of(cls, name: str, attributes: Mapping[Any, Any]) -> "Source":
        """Read a source from the attributes of its table. A table of format 3 has none; its name is its preset."""
        return cls(attributes.get("preset", name), attributes.get("origin"), attributes.get("folder"), attributes.get("division"))

    def attributes(self) -> dict[Hashable | None, Any]:
        """The attributes to store in the tables of this source."""
        known: dict[Hashable | None, Any] = {"preset": self.preset, "origin": self.origin, "folder": self.folder}
        known["division"] = self.division
        return {key: value for key, value in known.items() if value is not None}


@dataclass(frozen=True)
class Selection:
    """The names and tables (see `Listing`) of one source with captions, or of several sources of a preset combined."""

    names: tuple[str, ...]
    preset: str
    captions: pd.DataFrame
    videos: pd.DataFrame


def source_of(preset: Preset, videos: Path, annotations: Path | None, division: str | None = None) -> Source:
    """The source that an extraction reads; see `Source` for `division`."""
    origin = videos if annotations is None else annotations
    return Source(preset.name, path_text(Path(os.path.abspath(origin))), path_text(Path(os.path.abspath(videos))), division)


def name_of(source: Source, given: str | None, own: bool, existing: Mapping[str, Source], overlap: Callable[[str], float]) -> str:
    """The name of a source in a cache: `given`, else the name of the folder or table if the data are the user's `own`, else the preset's.

    existing: the sources of the cache, by name.
    overlap: the fraction of the videos of an existing source that the new source lists too.

    Raises UserError if `given` is not a valid name, or if a derived name belongs to another source.
    """
    if given is not None:
        if not re.fullmatch(r"[\w.-]+", given) or given.startswith(".") or len(given.encode()) > LONGEST_NAME or SHARE.fullmatch(given):
            raise UserError(f"--name {quote(given)}: letters, digits, -, _ and . inside, at most {LONGEST_NAME} bytes")
        return given
    if not own:
        return source.preset
    assert source.origin is not None
    if source.preset in existing and existing[source.preset].origin is None and overlap(source.preset) > MOVED:
        return source.preset  # a listing of format 3, which knew no other names
    path = Path(source.origin)
    stem = path.name if source.origin == source.folder else path.stem
    name = re.sub(r"[^\w.-]+", "_", stem).encode()[:LONGEST_NAME].decode(errors="ignore").strip("_.-") or source.preset
    name = name.replace(".", "_") if SHARE.fullmatch(name) else name
    before = existing.get(name)
    if before is None or (before.preset, before.origin) == (source.preset, source.origin):
        return name
    gone = before.origin is not None and not os.path.exists(before.origin)
    if before.preset == source.preset and gone and overlap(name) > MOVED:
        return name
    raise UserError(
        f"the cache has {quote(name)} from {before.origin or before.preset} already: give {source.origin} another --name, or replace the "
        f"existing source with --name {name}"
    )


def combine(listings: Sequence[Selection]) -> Selection:
    """Combine listings with captions into one. A caption that two listings have for the same video appears once, with the kind that the
    first of them gives it.

    Raises UserError if two listings put a video into different splits.
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
                f"choose one source with --name: {', '.join(name for one in listings for name in one.names)}"
            )
        # Repeated captions within one table are kept.
        known = pd.MultiIndex.from_frame(captions[["video_id", "caption"]])
        new = ~pd.MultiIndex.from_frame(listing.captions[["video_id", "caption"]]).isin(known)
        own, further = with_kinds(captions), with_kinds(listing.captions)
        captions = if_any(pd.concat([own.assign(kind=_first_kinds(own, further)), further[new]], ignore_index=True))
        videos = pd.concat([videos, listing.videos[~listing.videos["video_id"].isin(splits.index)]], ignore_index=True)
    return Selection(tuple(name for one in listings for name in one.names), listings[0].preset, captions, videos)


def _first_kinds(captions: pd.DataFrame, others: pd.DataFrame) -> "pd.Series[str]":
    """The kinds of captions, with those that `others` gives to the same captions where they have none."""
    given = others[others["kind"] != ""].drop_duplicates(["video_id", "caption"]).set_index(["video_id", "caption"])["kind"]
    theirs = given.reindex(pd.MultiIndex.from_frame(captions[["video_id", "caption"]])).fillna("").to_numpy()
    return captions["kind"].where(captions["kind"] != "", pd.Series(theirs, index=captions.index))
