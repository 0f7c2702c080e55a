"""The feature cache: a directory of immutable HDF5 part files, or one file merged from them. The only file that imports h5py; README.md
has the layout.

Features are ragged (rows of all entries one after the other, and offsets), raw and unnormalised: GLIM's temperature is meant for dot
products of the vectors as CLIP makes them. A part is written under a temporary name and renamed when it is complete, so a video is in
the cache wholly or not at all. A part is never changed: a video that is extracted again goes into a new part, and of several entries of
one name the one written last counts. Captions and splits are tables beside the parts and no part of the features' identity.

Shape suffixes: N entries (videos or texts), T rows of all entries together (frames or tokens), D joint dimension.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.errors import UserError
from data.sampling import choose_frames
from data.sealed import SEAL_BYTES, is_sound, seal, sweep, write_sealed, written_whole

if TYPE_CHECKING:  # writing a part needs no torch
    from data.features import Ragged, TextFeatures, VideoFeatures

FORMAT = 2
CLIP_FILE = "clip.h5"

READ_BYTES = 2**24
"""Rows of a part are read in pieces of so many bytes."""

Kind = Literal["videos", "texts"]

# The datasets of a part: those with a row for every frame or token, and those with a row for every entry.
_ROWS: dict[Kind, tuple[str, ...]] = {"videos": ("frames", "seconds"), "texts": ("words",)}
_ENTRIES: dict[Kind, tuple[str, ...]] = {
    "videos": ("file_size", "file_mtime_ns", "frames_expected", "hdr", "decoder"),
    "texts": ("sentence",),
}
_IMAGES: dict[Kind, tuple[str, ...]] = {"videos": ("thumbnails", "pixels"), "texts": ()}
"""Datasets of the bytes of JPEG files one after the other, one for every row or none; `NAME_offsets` says where each begins."""
_NAMES: dict[Kind, str] = {"videos": "video_id", "texts": "text"}


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
    """One video to write: its frame features [T, D], the time of each in seconds, and the file it came from.

    `frames_expected` is the number of sampled frames that the header of a file announces that is cut short, 0 for a whole one; `hdr` the
    transfer function of a video of high dynamic range, else empty; `decoder` what decoded it. `thumbnails` and `pixels` are JPEG files, one
    for every frame, or none.
    """

    video_id: str
    frames_TD: NDArray[np.float32]
    seconds_T: NDArray[np.float64]
    file_size: int
    file_mtime_ns: int
    frames_expected: int = 0
    hdr: str = ""
    decoder: str = "cpu"
    thumbnails: Sequence[bytes] = ()
    pixels: Sequence[bytes] = ()


@dataclass(frozen=True)
class TextEntry:
    """One text to write: the features [T, D] of all its tokens, start and end included, and its sentence feature [D]."""

    text: str
    words_TD: NDArray[np.float32]
    sentence_D: NDArray[np.float32]


class _Part(NamedTuple):
    """A part: a file and the group in it, which is the root unless the file was merged."""

    path: Path
    group: str


class _Place(NamedTuple):
    """Where an entry lies: its part, its row among the entries, its rows among frames or tokens."""

    part: _Part
    entry: int
    start: int
    stop: int


@dataclass
class _Index:
    """Where every entry of a kind lies, and when it was written; of videos also size and modification time of the file, and whether its
    pixels are there."""

    places: dict[str, _Place] = field(default_factory=dict)
    written_ns: dict[str, int] = field(default_factory=dict)
    files: dict[str, tuple[int, int, bool]] = field(default_factory=dict)


class FeatureCache:
    """A cache opened for reading or adding; `settings` are the options that decided its bytes.

    Raises UserError where the folder holds no cache, a file is damaged, or a part was made with other settings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.merged = path.is_file()
        if not path.exists():
            raise UserError(f"there is no cache at {path}: make one with python -m extract --cache {path} ...")
        if not self.merged and not (path / CLIP_FILE).is_file():
            raise UserError(f"{path} holds no feature cache ({CLIP_FILE} is missing): name the folder that extract wrote")
        self._clip_path = path if self.merged else path / CLIP_FILE
        with _open(self._clip_path) as file:
            if file.attrs.get("format") != FORMAT:
                raise UserError(f"{path} has cache format {file.attrs.get('format')}, this program reads {FORMAT}: extract it again")
            self.settings: dict[str, Any] = json.loads(file.attrs["settings"])
            self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
        self.digest = settings_digest(self.settings)
        self._indices: dict[Kind, _Index] = {"videos": _Index(), "texts": _Index()}
        for kind in self._indices:
            for part in [_Part(path, kind)] if self.merged else [_Part(file, "/") for file in sorted(path.glob(f"{kind}-*.h5"))]:
                self._index(kind, part)

    @classmethod
    def create(
        cls,
        path: Path,
        settings: Mapping[str, Any],
        clip: ClipParts,
        provenance: Mapping[str, Any],
        shard: tuple[int, int] = (0, 1),
        damaged: Callable[[Path], None] = lambda _path: None,
    ) -> "FeatureCache":
        """Open the cache for these settings, making it where there is none, and deleting damaged parts, so that they are made again.

        Of several processes that share the work, number `shard[0]` of `shard[1]` looks after its share of the parts; `damaged` is told of
        each file that was. Raises UserError, naming every setting that differs, where a cache made with other settings is there.
        """
        if path.is_file():
            raise UserError(f"--cache {path} is a merged cache, which nothing can be added to: name the folder that it was merged from")
        path.mkdir(parents=True, exist_ok=True)
        sweep(path)
        parts = [file for kind in _NAMES for file in sorted(path.glob(f"{kind}-*.h5"))]
        for file in parts[shard[0] :: shard[1]]:
            if not is_sound(file):
                damaged(file)
                file.unlink(missing_ok=True)
        clip_file = path / CLIP_FILE
        broken = clip_file.exists() and not is_sound(clip_file)
        if broken:
            damaged(clip_file)
            for file in parts:
                if file.exists():
                    with _open(file) as part:
                        _require_same(path, json.loads(part.attrs["settings"]), settings)
        if broken or not clip_file.exists():

            def fill(file: h5py.File) -> None:
                _fill_clip(file, settings, clip, provenance)

            write_sealed(clip_file, _hdf5(fill))
        cache = cls(path)
        cache.require(settings)
        return cache

    def require(self, settings: Mapping[str, Any]) -> None:
        """Raises UserError, naming every setting that differs, where the cache was made with others."""
        _require_same(self.path, self.settings, settings)

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
        with _open(self._clip_path) as file:
            tensors = {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset)}
            return ClipParts(tensors, float(file.attrs["logit_scale"]), int(file.attrs["heads"]), str(file.attrs["activation"]))

    def __contains__(self, key: tuple[Kind, str]) -> bool:
        """Whether ("videos", id) or ("texts", text) is there."""
        kind, name = key
        return name in self._indices[kind].places

    def names(self, kind: Kind) -> list[str]:
        """The ids of all videos, or all texts, that are there."""
        return list(self._indices[kind].places)

    def fingerprint(self, video_ids: Sequence[str]) -> str:
        """SHA-256 of the settings and of which entries, written when, these videos are: other features have another."""
        written_ns = self._indices["videos"].written_ns
        entries = [[name, written_ns[name]] for name in video_ids]
        return hashlib.sha256(json.dumps([self.digest, entries]).encode()).hexdigest()

    def is_current(self, video_id: str, file_size: int, file_mtime_ns: int, with_pixels: bool = False) -> bool:
        """Whether a video is there as its file is now, and with its pixels if those are wanted."""
        found = self._indices["videos"].files.get(video_id)
        return found is not None and found[:2] == (file_size, file_mtime_ns) and (found[2] or not with_pixels)

    def is_partial(self, video_id: str) -> bool:
        """Whether a video's file was cut short and gave only some of its frames."""
        place = self._indices["videos"].places[video_id]
        with _open(place.part.path) as file:
            return int(file[place.part.group]["frames_expected"][place.entry]) > 0

    def write_videos(self, entries: Sequence[VideoEntry]) -> None:
        """Add one part of videos."""
        arrays: dict[str, Any] = {
            "video_id": [entry.video_id for entry in entries],
            "offsets": _offsets([len(entry.frames_TD) for entry in entries]),
            "frames": np.concatenate([entry.frames_TD for entry in entries]).astype(self.settings["dtype"]),
            "seconds": np.concatenate([entry.seconds_T for entry in entries]),
            "file_size": np.array([entry.file_size for entry in entries], dtype=np.int64),
            "file_mtime_ns": np.array([entry.file_mtime_ns for entry in entries], dtype=np.int64),
            "frames_expected": np.array([entry.frames_expected for entry in entries], dtype=np.int64),
            "hdr": [entry.hdr for entry in entries],
            "decoder": [entry.decoder for entry in entries],
        }
        for name in _IMAGES["videos"]:
            images: list[bytes] = []
            for entry in entries:
                of_entry = getattr(entry, name)
                assert len(of_entry) in (0, len(entry.frames_TD))
                images += of_entry or [b""] * len(entry.frames_TD)
            arrays[name] = np.frombuffer(b"".join(images), dtype=np.uint8)
            arrays[f"{name}_offsets"] = _offsets([len(image) for image in images])
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

    def merge(self, out: Path) -> None:
        """Write the whole cache into one file, readable as a cache: the clip's attributes and tensors at its root, a group for each kind
        that is laid out as a part, and the tables as they are. Entries that newer ones replace stay behind."""
        with written_whole(out) as temporary:
            with h5py.File(temporary, "w", userblock_size=SEAL_BYTES) as file:
                _fill_clip(file, self.settings, self.clip_parts(), self.provenance)
                for kind, index in self._indices.items():
                    group = file.create_group(kind)
                    group.attrs["digest"] = self.digest
                    group.attrs["written_ns"] = max(index.written_ns.values(), default=0)
                    self._merge_kind(kind, group)
                for name in self.tables():
                    content = np.frombuffer((self.path / name).read_bytes(), dtype=np.uint8)
                    file.create_dataset(f"tables/{name}", data=content)
                file.require_group("tables")
            seal(temporary)

    def _merge_kind(self, kind: Kind, group: h5py.Group) -> None:
        places = self._indices[kind].places
        # In the order of the parts, each of which is then read from its beginning to its end.
        names = sorted(places, key=lambda name: places[name][:2])
        offsets = _offsets([places[name].stop - places[name].start for name in names])
        text = h5py.string_dtype()
        group.create_dataset(_NAMES[kind], data=np.array(names, dtype=object), dtype=text)
        group.create_dataset("offsets", data=offsets)
        for part in dict.fromkeys(places[name].part for name in names):
            members = [name for name in names if places[name].part == part]
            with _open(part.path) as file:
                source = file[part.group]
                for dataset in _ENTRIES[kind]:
                    rows = source[dataset][()][[places[name].entry for name in members]]
                    _append(group, dataset, rows)
                for dataset in _ROWS[kind]:
                    for run in self._runs(range(len(members)), [places[name] for name in members]):
                        begin = places[members[run[0]]].start
                        block = source[dataset][begin : places[members[run[-1]]].stop]
                        kept = [np.arange(places[members[i]].start, places[members[i]].stop) - begin for i in run]
                        _append(group, dataset, block[np.concatenate(kept)])
                for dataset in _IMAGES[kind]:
                    begins = source[f"{dataset}_offsets"][()]
                    for name in members:
                        of_rows = begins[places[name].start : places[name].stop + 1]
                        _append(group, dataset, source[dataset][of_rows[0] : of_rows[-1]])
                        _append(group, f"{dataset}_lengths", np.diff(of_rows))
        for dataset in _IMAGES[kind]:
            lengths = group[f"{dataset}_lengths"][()] if names else []
            group.create_dataset(f"{dataset}_offsets", data=_offsets(lengths))
            if names:
                del group[f"{dataset}_lengths"]

    def write_table(self, preset: str, captions: pd.DataFrame, videos: pd.DataFrame | None = None) -> None:
        """Keep a table of captions and splits beside the features, in place of an older one of the same preset.

        `videos`: columns video_id, split, file (a name, None where there is no file). By default those of the captions, each with a file.
        """
        if videos is None:
            videos = captions[["video_id", "split"]].drop_duplicates().assign(file=captions["video_id"])
        _write_parquet(self.path / _videos_file(preset), videos[["video_id", "split", "file"]])
        if not captions.empty:
            _write_parquet(self.path / _captions_file(preset), captions)

    def presets(self) -> list[str]:
        """Names of the tables of captions that are there."""
        return sorted(name[len("captions-") : -len(".parquet")] for name in self.tables() if name.startswith("captions-"))

    def tables(self) -> list[str]:
        """Names of the files of all tables."""
        if not self.merged:
            return sorted(path.name for path in self.path.glob("*.parquet"))
        with _open(self.path) as file:
            return sorted(file["tables"])

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
        return self._read_table(_captions_file(self.preset(preset)))

    def video_table(self, preset: str) -> pd.DataFrame:
        """All videos that a preset lists, columns video_id, split, file (a name under the folder of videos, None where there was none)."""
        if _videos_file(preset) not in self.tables():
            raise UserError(f"{self.path / _videos_file(preset)} is missing: run extract again, which writes it")
        return self._read_table(_videos_file(preset))

    def videos(self, video_ids: Sequence[str], memory_budget: int, max_frames: int | None = None) -> "VideoFeatures":
        """The frame features of these videos, all there, in this order; thinned out to `max_frames` by the rule of extraction.

        They are read into memory once if they fit into `memory_budget` bytes, and row by row from disk when used otherwise.
        """
        from data.features import VideoFeatures

        places = [self._indices["videos"].places[name] for name in video_ids]
        chosen = [choose_frames(place.stop - place.start, max_frames) for place in places]
        return VideoFeatures(
            ids=list(video_ids), frames=self._ragged("frames", places, chosen, memory_budget), seconds=self._seconds(places, chosen)
        )

    def texts(self, texts: Sequence[str], memory_budget: int) -> "TextFeatures":
        """The token and sentence features of these texts, all there, in this order; see `videos` for the budget."""
        from data.features import TextFeatures

        places = [self._indices["texts"].places[text] for text in texts]
        whole = [np.arange(place.stop - place.start) for place in places]
        one_row = [_Place(place.part, place.entry, place.entry, place.entry + 1) for place in places]
        sentences = self._ragged("sentence", one_row, [np.zeros(1, dtype=np.int64)] * len(places), memory_budget)
        words = self._ragged("words", places, whole, memory_budget - sentences.bytes_held)
        return TextFeatures(texts=list(texts), words=words, sentences=sentences)

    def images(self, name: Literal["thumbnails", "pixels"], video_id: str) -> list[bytes]:
        """The JPEG files of a video's frames; none where they were not kept."""
        place = self._indices["videos"].places[video_id]
        with _open(place.part.path) as file:
            group = file[place.part.group]
            offsets = group[f"{name}_offsets"][place.start : place.stop + 1]
            content = group[name][offsets[0] : offsets[-1]].tobytes()
        files = [content[begin - offsets[0] : end - offsets[0]] for begin, end in pairwise(offsets)]
        return files if content else []

    def _read_table(self, name: str) -> pd.DataFrame:
        if not self.merged:
            return pd.read_parquet(self.path / name)
        with _open(self.path) as file:
            return pd.read_parquet(io.BytesIO(file["tables"][name][()].tobytes()))

    def _index(self, kind: Kind, part: _Part) -> None:
        index = self._indices[kind]
        with _open(part.path) as file:
            try:
                group = file[part.group]
                if group.attrs.get("digest") != self.digest:
                    raise UserError(f"{part.path} was made with other settings than {self._clip_path}: move it out of the cache")
                names, offsets, written_ns = group[_NAMES[kind]].asstr()[()], group["offsets"][()], int(group.attrs["written_ns"])
                if kind == "videos":
                    file_info = zip(group["file_size"][()], group["file_mtime_ns"][()], _have_pixels(group, offsets), strict=True)
                    files = [(int(size), int(mtime_ns), bool(pixels)) for size, mtime_ns, pixels in file_info]
            except (KeyError, OSError, RuntimeError, AttributeError) as error:
                raise _damaged(part.path, error) from error
        for entry, name in enumerate(names):
            if written_ns >= index.written_ns.get(name, 0):
                index.written_ns[name] = written_ns
                index.places[name] = _Place(part, entry, int(offsets[entry]), int(offsets[entry + 1]))
                if kind == "videos":
                    index.files[name] = files[entry]

    def _write_part(self, kind: Kind, arrays: Mapping[str, Any]) -> None:
        for name in (*_ROWS[kind], *_ENTRIES[kind]):
            if not isinstance(arrays[name], list) and not np.isfinite(arrays[name]).all():
                raise UserError(f"{name} features are not finite as {self.settings['dtype']}: extract with --dtype float32")
        sha = hashlib.sha256()
        for name, value in sorted(arrays.items()):
            sha.update(name.encode())
            sha.update(json.dumps(value).encode() if isinstance(value, list) else np.ascontiguousarray(value).tobytes())

        def fill(file: h5py.File) -> None:
            file.attrs["digest"] = self.digest
            file.attrs["settings"] = json.dumps(self.settings, sort_keys=True)
            file.attrs["written_ns"] = time.time_ns()
            for name, value in arrays.items():
                file.create_dataset(name, data=value, dtype=h5py.string_dtype() if isinstance(value, list) else None)

        part = self.path / f"{kind}-{sha.hexdigest()[:16]}.h5"
        write_sealed(part, _hdf5(fill))
        self._index(kind, _Part(part, "/"))

    def _ragged(self, dataset: str, places: Sequence[_Place], chosen: Sequence[NDArray[np.int64]], memory_budget: int) -> "Ragged":
        from data.features import Ragged

        count = np.array([len(rows) for rows in chosen], dtype=np.int64)
        if int(count.sum()) * self.dimension * np.dtype(self.settings["dtype"]).itemsize > memory_budget:
            files = {part: _open(part.path)[part.group] for part in {place.part for place in places}}
            return Ragged.on_disk(
                [files[place.part][dataset] for place in places], [p.start + rows for p, rows in zip(places, chosen, strict=True)]
            )
        offsets = _offsets(count)
        values_TD = np.empty((int(offsets[-1]), self.dimension), dtype=self.settings["dtype"])
        by_part: dict[_Part, list[int]] = {}
        for i, place in enumerate(places):
            by_part.setdefault(place.part, []).append(i)
        for part, members in by_part.items():
            with _open(part.path) as file:
                for run in self._runs(sorted(members, key=lambda i: places[i].start), places):
                    first = places[run[0]].start
                    rows_TD = file[part.group][dataset][first : max(places[i].stop for i in run)]
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
        loaded: dict[_Part, NDArray[np.float64]] = {}
        for part in {place.part for place in places}:
            with _open(part.path) as file:
                loaded[part] = file[part.group]["seconds"][()]
        return [loaded[place.part][place.start + rows] for place, rows in zip(places, chosen, strict=True)]


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that decide the bytes of the features."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def _offsets(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _captions_file(preset: str) -> str:
    return f"captions-{preset}.parquet"


def _videos_file(preset: str) -> str:
    return f"videos-{preset}.parquet"


def _require_same(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    differing = [
        f"{key} is {_short(there.get(key))} there and {_short(here.get(key))} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    if differing:
        raise UserError(f"the cache {path} was made with other settings ({'; '.join(differing)}): use them, or another --cache")


def _have_pixels(group: h5py.Group, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of every video of a part, whether the pixels of its frames are there."""
    begin = group["pixels_offsets"][()]
    return begin[offsets[1:]] > begin[offsets[:-1]]  # type: ignore[no-any-return]


def _fill_clip(file: h5py.File, settings: Mapping[str, Any], clip: ClipParts, provenance: Mapping[str, Any]) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["settings"] = json.dumps(settings, sort_keys=True)
    file.attrs["provenance"] = json.dumps(provenance)
    file.attrs["logit_scale"] = clip.logit_scale
    file.attrs["heads"] = clip.heads
    file.attrs["activation"] = clip.activation
    for name, tensor in clip.tensors.items():
        file.create_dataset(name, data=tensor)


def _append(group: h5py.Group, name: str, rows: NDArray[Any]) -> None:
    """Add rows to a dataset of a file that is being merged, which grows with them."""
    if name not in group:
        dtype = h5py.string_dtype() if rows.dtype == object else rows.dtype
        # Pieces of about a MiB: read alone, an entry costs little more than itself.
        row_bytes = max(rows.dtype.itemsize * int(np.prod(rows.shape[1:])), 1)
        chunk = (max(1, 2**20 // row_bytes), *rows.shape[1:])
        group.create_dataset(name, shape=(0, *rows.shape[1:]), maxshape=(None, *rows.shape[1:]), dtype=dtype, chunks=chunk)
    dataset = group[name]
    dataset.resize(len(dataset) + len(rows), axis=0)
    if len(rows):
        dataset[len(dataset) - len(rows) :] = rows


def names_in(part: Path) -> list[str]:
    """The ids of the videos of a part."""
    with _open(part) as file:
        return list(file[_NAMES["videos"]].asstr()[()])


def _hdf5(fill: Callable[[h5py.File], None]) -> memoryview:
    """An HDF5 file made in memory: the library is never left with a file that the disk has no room for."""
    content = io.BytesIO()
    with h5py.File(content, "w", userblock_size=SEAL_BYTES) as file:
        fill(file)
    return content.getbuffer()


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged or cannot be read ({error}): run extract again, which repairs the cache")


def _open(path: Path) -> h5py.File:
    # No locks: a file that is there is complete and never changes. A lock would be kept alive by a decoder that is being started
    # while the file is open, and some network file systems have none.
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise _damaged(path, error) from error


def _write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table, and beside it its checksum in the form of sha256sum."""
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    with written_whole(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    with written_whole(checksum_file(path)) as temporary:
        temporary.write_text(f"{hashlib.sha256(content.getbuffer()).hexdigest()}  {path.name}\n")


def checksum_file(table: Path) -> Path:
    """The file that holds a table's checksum."""
    return table.with_name(f"{table.name}.sha256")
