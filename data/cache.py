"""The feature cache: a directory of immutable HDF5 part files. The only file that imports h5py; README.md has the layout.

Features are ragged (rows of all entries one after the other, and offsets), raw and unnormalised: GLIM's temperature is meant for dot
products of the vectors as CLIP makes them. A part is written under a temporary name and renamed when it is complete, so a video is in
the cache wholly or not at all. Captions and splits are tables beside the parts and no part of the features' identity.

Shape suffixes: N entries (videos or texts), T rows of all entries together (frames or tokens), D joint dimension.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.errors import UserError
from data.features import Ragged, TextFeatures, VideoFeatures
from data.sampling import choose_frames

FORMAT = 1
CLIP_FILE = "clip.h5"
FAILURES_FILE = "failures.csv"

READ_BYTES = 2**24
"""Rows of a part are read in pieces of so many bytes."""

Kind = Literal["videos", "texts"]

# The datasets of a part: those with a row for every frame or token, and those with a row for every entry.
_ROWS: dict[Kind, tuple[str, ...]] = {"videos": ("frames", "seconds"), "texts": ("words",)}
_ENTRIES: dict[Kind, tuple[str, ...]] = {"videos": ("file_size", "file_mtime_ns"), "texts": ("sentence",)}


@dataclass(frozen=True)
class ClipParts:
    """What stage two takes from CLIP, so that it never needs the checkpoint.

    `tensors`: `positional_embedding` [positions, width] of the text tower and `blocks.I.NAME` of its first blocks, float32.
    `logit_scale` is the factor itself, not its logarithm; `heads` and `activation` are those of the text blocks.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    logit_scale: float
    heads: int
    activation: str


@dataclass(frozen=True)
class VideoEntry:
    """One video to write: its frame features [T, D], the time of each in seconds, and the file it came from."""

    video_id: str
    frames_TD: NDArray[np.float32]
    seconds_T: NDArray[np.float64]
    file_size: int
    file_mtime_ns: int


@dataclass(frozen=True)
class TextEntry:
    """One text to write: the features [T, D] of all its tokens, start and end included, and its sentence feature [D]."""

    text: str
    words_TD: NDArray[np.float32]
    sentence_D: NDArray[np.float32]


@dataclass(frozen=True)
class _Place:
    """Where an entry lies: its part, its row among the entries, its rows among frames or tokens."""

    part: Path
    entry: int
    start: int
    stop: int


class FeatureCache:
    """A cache opened for reading or adding; `settings` are the options that decided its bytes.

    Raises UserError where the folder holds no cache, a file is damaged, or a part was made with other settings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise UserError(f"there is no cache at {path}: make one with python -m extract --cache {path} ...")
        if not (path / CLIP_FILE).is_file():
            raise UserError(f"{path} holds no feature cache ({CLIP_FILE} is missing): name the folder that extract wrote")
        with _open(path / CLIP_FILE) as file:
            if file.attrs.get("format") != FORMAT:
                raise UserError(f"{path} has cache format {file.attrs.get('format')}, this program reads {FORMAT}: extract it again")
            self.settings: dict[str, Any] = json.loads(file.attrs["settings"])
            self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
        self.digest = settings_digest(self.settings)
        self._places: dict[Kind, dict[str, _Place]] = {"videos": {}, "texts": {}}
        for kind in self._places:
            for part in sorted(path.glob(f"{kind}-*.h5")):
                self._index(kind, part)

    @classmethod
    def create(cls, path: Path, settings: Mapping[str, Any], clip: ClipParts, provenance: Mapping[str, Any]) -> "FeatureCache":
        """Open the cache for these settings, making it where there is none.

        Raises UserError, naming every setting that differs, where a cache made with other settings is there.
        """
        if not (path / CLIP_FILE).exists():
            path.mkdir(parents=True, exist_ok=True)

            def fill(file: h5py.File) -> None:
                file.attrs["format"] = FORMAT
                file.attrs["settings"] = json.dumps(settings, sort_keys=True)
                file.attrs["provenance"] = json.dumps(provenance)
                file.attrs["logit_scale"] = clip.logit_scale
                file.attrs["heads"] = clip.heads
                file.attrs["activation"] = clip.activation
                for name, tensor in clip.tensors.items():
                    file.create_dataset(name, data=tensor)

            _write_whole(path / CLIP_FILE, fill)
        cache = cls(path)
        differing = [
            f"{key} is {_short(cache.settings.get(key))} there and {_short(settings.get(key))} here"
            for key in sorted({*cache.settings, *settings})
            if cache.settings.get(key) != settings.get(key)
        ]
        if differing:
            raise UserError(f"the cache {path} was made with other settings ({'; '.join(differing)}): use them, or another --cache")
        return cache

    @property
    def weights(self) -> str:
        """Digest of the CLIP weights that made the features."""
        return str(self.settings["weights"])

    @property
    def dimension(self) -> int:
        """D, the width of all features."""
        return int(self.settings["dimension"])

    def clip_parts(self) -> ClipParts:
        """What stage two takes from CLIP."""
        with _open(self.path / CLIP_FILE) as file:
            tensors: dict[str, NDArray[np.float32]] = {}
            file.visititems(lambda name, item: tensors.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
            return ClipParts(tensors, float(file.attrs["logit_scale"]), int(file.attrs["heads"]), str(file.attrs["activation"]))

    def __contains__(self, key: tuple[Kind, str]) -> bool:
        """Whether ("videos", id) or ("texts", text) is there."""
        kind, name = key
        return name in self._places[kind]

    def write_videos(self, entries: Sequence[VideoEntry]) -> None:
        """Add one part of videos."""
        arrays: dict[str, Any] = {
            "video_id": [entry.video_id for entry in entries],
            "offsets": _offsets([len(entry.frames_TD) for entry in entries]),
            "frames": np.concatenate([entry.frames_TD for entry in entries]).astype(self.settings["dtype"]),
            "seconds": np.concatenate([entry.seconds_T for entry in entries]),
            "file_size": np.array([entry.file_size for entry in entries], dtype=np.int64),
            "file_mtime_ns": np.array([entry.file_mtime_ns for entry in entries], dtype=np.int64),
        }
        self._write_part("videos", arrays)

    def write_texts(self, entries: Sequence[TextEntry]) -> None:
        """Add one part of texts."""
        arrays: dict[str, Any] = {
            "text": [entry.text for entry in entries],
            "offsets": _offsets([len(entry.words_TD) for entry in entries]),
            "words": np.concatenate([entry.words_TD for entry in entries]).astype(self.settings["dtype"]),
            "sentence": np.stack([entry.sentence_D for entry in entries]).astype(self.settings["dtype"]),
        }
        self._write_part("texts", arrays)

    def write_table(self, preset: str, captions: pd.DataFrame, videos: pd.DataFrame | None = None) -> None:
        """Keep a table of captions and splits beside the features, in place of an older one of the same preset.

        `videos`: columns video_id, split, file (a name, None where there is no file). By default those of the captions, each with a file.
        """
        if videos is None:
            videos = captions[["video_id", "split"]].drop_duplicates().assign(file=captions["video_id"])
        _write_parquet(self._videos_path(preset), videos[["video_id", "split", "file"]])
        if not captions.empty:
            _write_parquet(self._captions_path(preset), captions)

    def presets(self) -> list[str]:
        """Names of the tables of captions that are there."""
        return sorted(path.name.removeprefix("captions-").removesuffix(".parquet") for path in self.path.glob("captions-*.parquet"))

    def preset(self, name: str | None = None) -> str:
        """The name of a preset that is there; where the cache has one, it need not be named. Raises UserError where there is no such."""
        there = self.presets()
        if name is None and len(there) > 1:
            raise UserError(f"the cache {self.path} serves several presets: name one with --preset {'|'.join(there)}")
        if not there:
            raise UserError(f"the cache {self.path} has no captions: extract with --annotations")
        if name is not None and name not in there:
            raise UserError(f"the cache {self.path} has no captions for preset {name}; it has: {', '.join(there)}")
        return name or there[0]

    def table(self, preset: str | None = None) -> pd.DataFrame:
        """The captions of a preset, columns video_id, caption, split; where the cache has one table, it need not be named."""
        return pd.read_parquet(self._captions_path(self.preset(preset)))

    def video_table(self, preset: str) -> pd.DataFrame:
        """All videos that a preset lists, columns video_id, split, file (a name under the folder of videos, None where there was none)."""
        path = self._videos_path(preset)
        if not path.is_file():
            raise UserError(f"{path} is missing: run extract again, which writes it")
        return pd.read_parquet(path)

    def videos(self, video_ids: Sequence[str], memory_budget: int, max_frames: int | None = None) -> VideoFeatures:
        """The frame features of these videos, all there, in this order; thinned out to `max_frames` by the rule of extraction.

        They are read into memory once if they fit into `memory_budget` bytes, and row by row from disk when used otherwise.
        """
        places = [self._places["videos"][name] for name in video_ids]
        chosen = [choose_frames(place.stop - place.start, max_frames) for place in places]
        return VideoFeatures(
            ids=list(video_ids), frames=self._ragged("frames", places, chosen, memory_budget), seconds=self._seconds(places, chosen)
        )

    def texts(self, texts: Sequence[str], memory_budget: int) -> TextFeatures:
        """The token and sentence features of these texts, all there, in this order; see `videos` for the budget."""
        places = [self._places["texts"][text] for text in texts]
        whole = [np.arange(place.stop - place.start) for place in places]
        one_row = [_Place(place.part, place.entry, place.entry, place.entry + 1) for place in places]
        sentences = self._ragged("sentence", one_row, [np.zeros(1, dtype=np.int64)] * len(places), memory_budget)
        words = self._ragged("words", places, whole, memory_budget - sentences.bytes_held)
        return TextFeatures(texts=list(texts), words=words, sentences=sentences)

    def _captions_path(self, preset: str) -> Path:
        return self.path / f"captions-{preset}.parquet"

    def _videos_path(self, preset: str) -> Path:
        return self.path / f"videos-{preset}.parquet"

    def _index(self, kind: Kind, part: Path) -> None:
        with _open(part) as file:
            if file.attrs.get("digest") != self.digest:
                raise UserError(f"{part} was made with other settings than {self.path / CLIP_FILE}: move it out of the cache")
            names = file["video_id" if kind == "videos" else "text"].asstr()[()]
            offsets = file["offsets"][()]
        for entry, name in enumerate(names):
            self._places[kind][name] = _Place(part, entry, int(offsets[entry]), int(offsets[entry + 1]))

    def _write_part(self, kind: Kind, arrays: Mapping[str, Any]) -> None:
        for name in (*_ROWS[kind], *_ENTRIES[kind]):
            if not np.isfinite(arrays[name]).all():
                raise UserError(f"{name} features are not finite as {self.settings['dtype']}: extract with --dtype float32")
        sha = hashlib.sha256()
        for name, value in sorted(arrays.items()):
            sha.update(name.encode())
            sha.update(json.dumps(value).encode() if isinstance(value, list) else np.ascontiguousarray(value).tobytes())

        def fill(file: h5py.File) -> None:
            file.attrs["digest"] = self.digest
            file.attrs["settings"] = json.dumps(self.settings, sort_keys=True)
            file.attrs["sha256"] = sha.hexdigest()
            for name, value in arrays.items():
                file.create_dataset(name, data=value, dtype=h5py.string_dtype() if isinstance(value, list) else None)

        part = self.path / f"{kind}-{sha.hexdigest()[:16]}.h5"
        _write_whole(part, fill)
        self._index(kind, part)

    def _ragged(self, dataset: str, places: Sequence[_Place], chosen: Sequence[NDArray[np.int64]], memory_budget: int) -> Ragged:
        count = np.array([len(rows) for rows in chosen], dtype=np.int64)
        if int(count.sum()) * self.dimension * np.dtype(self.settings["dtype"]).itemsize > memory_budget:
            files = {part: _open(part) for part in {place.part for place in places}}
            return Ragged.on_disk(
                [files[place.part][dataset] for place in places], [p.start + rows for p, rows in zip(places, chosen, strict=True)]
            )
        offsets = _offsets(count)
        values_TD = np.empty((int(offsets[-1]), self.dimension), dtype=self.settings["dtype"])
        by_part: dict[Path, list[int]] = {}
        for i, place in enumerate(places):
            by_part.setdefault(place.part, []).append(i)
        for part, members in by_part.items():
            with _open(part) as file:
                for run in self._runs(sorted(members, key=lambda i: places[i].start), places):
                    first = places[run[0]].start
                    rows_TD = file[dataset][first : max(places[i].stop for i in run)]
                    for i in run:
                        values_TD[offsets[i] : offsets[i + 1]] = rows_TD[places[i].start - first + chosen[i]]
        return Ragged.in_memory(values_TD, offsets)

    def _runs(self, members: Sequence[int], places: Sequence[_Place]) -> Iterator[list[int]]:
        """These entries of a part, in the order of their rows, cut where READ_BYTES of rows are full: a part is never in memory whole."""
        row_bytes = self.dimension * np.dtype(self.settings["dtype"]).itemsize
        run: list[int] = []
        for i in members:
            if run and (places[i].stop - places[run[0]].start) * row_bytes > READ_BYTES:
                yield run
                run = []
            run.append(i)
        yield run

    def _seconds(self, places: Sequence[_Place], chosen: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        loaded: dict[Path, NDArray[np.float64]] = {}
        for part in {place.part for place in places}:
            with _open(part) as file:
                loaded[part] = file["seconds"][()]
        return [loaded[place.part][place.start + rows] for place, rows in zip(places, chosen, strict=True)]


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that decide the bytes of the features."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def _offsets(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _open(path: Path) -> h5py.File:
    # No locks: a file that is there is complete and never changes. A lock would be kept alive by a decoder that is being started
    # while the file is open, and some network file systems have none.
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UserError(f"{path} is damaged or cannot be read ({error}): delete it and run extract again") from error


def _write_parquet(path: Path, frame: pd.DataFrame) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    frame.to_parquet(temporary, index=False)
    temporary.replace(path)


def _write_whole(path: Path, fill: Any) -> None:
    """Write an HDF5 file under a temporary name, sync it, and rename it: it is there complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w", locking=False) as file:
            fill(file)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
