"""The index of a cache: the part and the rows of every entry. The newest entry of a name wins."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.cache.hdf5 import Group, damaged_file, open_file
from data.cache.layout import IMAGES, NAMES, UNKNOWN, Images, Kind, PatchSettings, read_patch_settings
from data.store.path import CachePath

READ_BYTES = 2**24
"""Most bytes of a part's rows that are read at once."""


class Part(NamedTuple):
    """A part: a file, and the HDF5 group in it, which is the root unless the file is a merged cache."""

    path: CachePath
    group: str


def parts_of(path: CachePath, kind: Kind) -> list[Part]:
    """The parts of a cache, a folder or a merged file, that hold the entries of a kind."""
    if not path.is_file():
        files: Iterable[CachePath] = path.glob(f"{kind}-*.h5")
        return [Part(file, "/") for file in sorted(files, key=str)]
    with open_file(path) as file:
        # A merged file has a group of patch tokens only if there were any.
        return [Part(path, kind)] if kind != "patches" or kind in file else []


class Place(NamedTuple):
    """The place of an entry: its part, its index among the entries, and its rows start:stop among the frames or tokens."""

    part: Part
    entry: int
    start: int
    stop: int


class FileStamp(NamedTuple):
    """What a video was extracted from: its file at that time, and the span of the file in seconds."""

    file_size: int
    file_mtime_ns: int
    file_digest: str
    start: float
    end: float

    @property
    def is_known(self) -> bool:
        """Whether the file is known: features written from Python may come without one."""
        return self.file_size != 0

    def is_of(self, other: "FileStamp") -> bool:
        """Whether both were made from the same span of the same file, judged by its size, and its digest or modification time."""
        same = (self.file_size, self.start, self.end) == (other.file_size, other.start, other.end)
        return same and (self.file_mtime_ns == other.file_mtime_ns or (self.file_digest == other.file_digest != ""))


@dataclass
class Index:
    """By name, the place and writing time of every entry of a kind; for videos and patches also their file stamps, and for videos the
    stored images."""

    places: dict[str, Place] = field(default_factory=dict)
    written_ns: dict[str, int] = field(default_factory=dict)
    stamps: dict[str, FileStamp] = field(default_factory=dict)
    images: dict[str, frozenset[Images]] = field(default_factory=dict)
    patches: PatchSettings | None = None
    """Which patch tokens the parts hold; None if there are none."""
    first_patches: CachePath | None = None
    """The part that they were read from."""

    def add(self, kind: Kind, part: Part, digest: str) -> None:
        """Add the entries of a part. Raises UserError if the part is damaged or its settings have another digest."""
        with open_file(part.path) as file:
            try:
                group = file[part.group]
                if group.attrs.get("digest") != digest:
                    raise UserError(f"{part.path} was made with other settings than the cache: move it out of the cache")
                names, offsets, written_ns = group[NAMES[kind]].asstr()[()], group["offsets"][()], int(group.attrs["written_ns"])
                if kind != "texts":
                    columns = [read_column(group, column, len(names)).tolist() for column in FileStamp._fields]
                    stamps = [FileStamp(*values) for values in zip(*columns, strict=True)]
                if kind == "videos":
                    images = _images_there(group, offsets)
                if kind == "patches":
                    self._require_patches(part, read_patch_settings(group))
            except (KeyError, OSError, RuntimeError, AttributeError) as error:
                raise damaged_file(part.path, error) from error
        # Python numbers and few lookups: a large cache has a hundred thousand entries.
        bounds = pairwise(offsets.tolist())
        for entry, (name, (start, stop)) in enumerate(zip(names.tolist(), bounds, strict=True)):
            if written_ns >= self.written_ns.get(name, 0):
                self.written_ns[name] = written_ns
                self.places[name] = Place(part, entry, start, stop)
                if kind != "texts":
                    self.stamps[name] = stamps[entry]
                if kind == "videos":
                    self.images[name] = images[entry]

    def _require_patches(self, part: Part, patches: PatchSettings) -> None:
        """Raise UserError if an earlier part has patch tokens of other settings."""
        if self.patches is None:
            self.patches, self.first_patches = patches, part.path
        if self.patches != patches:
            assert self.first_patches is not None
            raise UserError(
                f"{part.path} holds {patches}, but {self.first_patches.name} {self.patches}: remove one of the two from the cache"
            )


def have_current_patches(videos: Index, patches: Index, video_id: str) -> bool:
    """Whether the patch tokens of a video belong to its frames: one row for each, made from the same file.

    If that file is unknown, tokens that are older than the frames are not taken for theirs.
    """
    if video_id not in videos.places or video_id not in patches.places:
        return False
    frames, tokens, stamp = videos.places[video_id], patches.places[video_id], videos.stamps[video_id]
    if frames.stop - frames.start != tokens.stop - tokens.start or not stamp.is_of(patches.stamps[video_id]):
        return False
    return stamp.is_known or patches.written_ns[video_id] >= videos.written_ns[video_id]


def runs(members: Sequence[int], places: Sequence[Place], row_bytes: int) -> Iterator[list[int]]:
    """Split entries of a part, in row order, into runs of at most READ_BYTES of rows, so that a whole part is never in memory.

    An entry that is larger than READ_BYTES is a run by itself.
    """
    run: list[int] = []
    for i in members:
        if run and (places[i].stop - places[run[0]].start) * row_bytes > READ_BYTES:
            yield run
            run = []
        run.append(i)
    yield run


def read_column(group: Group, name: str, count: int) -> NDArray[Any]:
    """A dataset with one row for each of `count` entries, text as str. If an older part lacks it, every row is its UNKNOWN value."""
    if name not in group and name in UNKNOWN:
        return np.full(count, UNKNOWN[name])
    dataset = group[name]
    column: NDArray[Any] = (dataset.asstr() if dataset.dtype == object else dataset)[()]
    return column


def video_ids_in(part: Path) -> list[str]:
    """The ids of the videos in a part."""
    with open_file(part) as file:
        return list(file[NAMES["videos"]].asstr()[()])


def _images_there(group: Group, offsets: NDArray[np.int64]) -> list[frozenset[Images]]:
    """For every video of a part, the kinds of images that are stored for its frames."""
    begins = {name: group[f"{name}_offsets"][()] for name in IMAGES["videos"]}
    there = {name: begin[offsets[1:]] > begin[offsets[:-1]] for name, begin in begins.items()}
    kinds = {flags: frozenset(compress(there, flags)) for flags in product((False, True), repeat=len(there))}
    return [kinds[flags] for flags in zip(*(flag_N.tolist() for flag_N in there.values()), strict=True)]
