"""The feature cache: a folder of immutable HDF5 parts, or one file merged from them. docs/reference/cache.md has the layout.

Features are ragged: the rows of all entries are concatenated, and offsets delimit them. They are raw, not normalised, because GLIM's
temperature assumes dot products of CLIP's own vectors. A part is written under a temporary name and renamed when complete, so a video is
in the cache completely or not at all. Parts are immutable: re-extracting a video writes a new part, and the newest entry of a name wins.
Captions and splits are tables beside the parts; they do not affect the features' identity.

Shape suffixes: N entries (videos or texts), T rows of all entries (frames or tokens), M patch tokens of a frame, D joint dimension.
"""

import difflib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.quoting import quote
from data.base.sealed import is_sound, seal, write_sealed
from data.base.whole_files import remove_stale, sync_file, written_whole
from data.base.writable import make_folder
from data.cache.extraction import Extraction, read_extraction
from data.cache.hdf5 import file_bytes, new_file, open_file, write_arrays
from data.cache.index import FileStamp, Index, Part, Place, have_current_patches, parts_of
from data.cache.layout import (
    BEFORE_4,
    CLIP_FILE,
    NAMES,
    NO_CLIP,
    READABLE,
    ClipParts,
    Images,
    Kind,
    PatchSettings,
    TextEntry,
    VideoEntry,
    all_finite,
    patch_arrays,
    read_clip,
    require_patches,
    require_same,
    require_settings,
    require_texts,
    require_videos,
    settings_digest,
    text_arrays,
    video_arrays,
    write_clip,
)
from data.cache.listings import Listings, listing_of
from data.cache.merged import write_merged
from data.cache.reading import DEFAULT_BUDGET, one_row, read_images, read_ragged, read_rows, read_seconds
from data.cache.sources import Source
from data.sampling import choose_frames, choose_words
from data.span import WHOLE_FILE, Span
from data.store.address import require_folder
from data.store.path import fetch_opening, local, located, named

if TYPE_CHECKING:  # writing a part needs no torch
    from data.cache.features import Ragged, TextFeatures, VideoFeatures


class FeatureCache:
    """A cache, open for reading and adding. `settings` are the options that decide the bytes of its features.

    >>> cache = FeatureCache("runs/cache")
    >>> cache.frames("video7").shape, cache.words("a red ring").shape
    ((12, 512), (5, 512))
    >>> videos = cache.videos(cache.names("videos"))  # a VideoFeatures
    >>> frames_RD, length_N = videos.frames.gather([0, 1])

    Raises UserError if the folder holds no cache, a file is damaged, or a part was made with other settings.
    """

    def __init__(self, path: Path | str) -> None:
        self._location = place = located(path)
        self.path = path = named(place)
        """Where the cache is, on this machine or in a store. It prints as its address; only `folder` is for writing."""
        self.merged = place.is_file()
        self.listings = Listings(place)
        if not place.exists():
            raise UserError(f"there is no cache at {path}: make one with python -m extract --cache {path} ...")
        if not self.merged and not (place / CLIP_FILE).is_file():
            raise UserError(f"{path} holds no feature cache ({CLIP_FILE} is missing): name the folder that extract wrote")
        self._clip_path = place if self.merged else place / CLIP_FILE
        fetch_opening(place)
        with open_file(self._clip_path) as file:
            if file.attrs.get("format") not in READABLE:
                known = " and ".join(map(str, READABLE))
                raise UserError(
                    f"{path} has cache format {file.attrs.get('format')}, but this program reads {known}: extract into a new --cache"
                )
            self.format = int(file.attrs["format"])
            self._recorded: dict[str, Any] = json.loads(file.attrs["settings"])
            self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
            self.extraction = read_extraction(file.attrs, self._clip_path)
        self.settings = dict(BEFORE_4) | self._recorded
        self.digest = settings_digest(self._recorded)
        self._indices: dict[Kind, Index] = {}
        # Errors show at once. Only readers that need patch tokens open their parts.
        self._index("videos")
        self._index("texts")

    @classmethod
    def create(
        cls,
        path: Path | str,
        settings: Mapping[str, Any],
        clip: ClipParts = NO_CLIP,
        provenance: Mapping[str, Any] = MappingProxyType({}),
        shard: tuple[int, int] = (0, 1),
        on_damaged: Callable[[Path], None] = lambda _path: None,
        barrier: Callable[[], None] = lambda: None,
        extraction: Extraction | None = None,
    ) -> "FeatureCache":
        """Open or create the cache for these settings, and delete damaged parts so that their entries are extracted again.

        settings: what decides the bytes of the features. Required are `weights` (the digest or name of the encoder), `dimension` (D),
            `max_words` (tokens of the longest text) and `dtype` ("float16" or "float32").
        shard: (rank, world_size) of the processes that share the work. Each checks its share of the parts.
        on_damaged: called with the path of each damaged file.
        barrier: returns when all processes have checked their shares.
        provenance, extraction: what made the cache, for people and for later commands. `extraction` is None for imported features.

        Raises UserError, naming every setting that differs, if the existing cache was made with other settings.
        """
        path = Path(path)
        require_folder(path, "--cache")
        require_settings(path, settings)
        if path.is_file():
            raise UserError(f"--cache {path} is a merged cache and cannot grow: name the folder that it was merged from")
        make_folder(path, "--cache")
        remove_stale(path)
        parts = [file for kind in NAMES for file in sorted(path.glob(f"{kind}-*.h5"))]
        for file in parts[shard[0] :: shard[1]]:
            if not is_sound(file):
                on_damaged(file)
                file.unlink(missing_ok=True)
        clip_file = path / CLIP_FILE
        broken = clip_file.exists() and not is_sound(clip_file)
        recorded = settings
        if broken:
            on_damaged(clip_file)
            for file in parts:
                if file.exists():
                    recorded = _settings_of(file)
                    require_same(path, recorded, settings)
        if broken or not clip_file.exists():
            write_sealed(clip_file, file_bytes(lambda file: write_clip(file, recorded, clip, dict(provenance), extraction)))
        barrier()
        cache = cls(path)
        cache.require(settings)
        return cache

    def require(self, settings: Mapping[str, Any]) -> None:
        """Raise UserError, naming every setting that differs, if the cache was made with other settings."""
        require_same(self.path, self._recorded, settings)

    @property
    def folder(self) -> Path:
        """The path, to write to. Raises UserError if the cache is in a store."""
        return local(self._location)

    @property
    def weights(self) -> str:
        """Digest of the CLIP weights that made the features."""
        return str(self.settings["weights"])

    @property
    def dimension(self) -> int:
        """D, the width of the features."""
        return int(self.settings["dimension"])

    @property
    def imported(self) -> bool:
        """Whether something other than an extraction made the features."""
        return "fps" not in self.settings

    def clip_parts(self) -> ClipParts:
        """The tensors and constants of CLIP that stage two needs."""
        with open_file(self._clip_path) as file:
            return read_clip(file, self._clip_path)

    def _index(self, kind: Kind) -> Index:
        """The index of a kind, read on first use."""
        if kind not in self._indices:
            index = Index()
            if kind == "patches":
                fetch_opening(self._location, patches=True)
            for part in parts_of(self._location, kind):
                index.add(kind, part, self.digest)
            self._indices[kind] = index
        return self._indices[kind]

    def __contains__(self, key: tuple[Kind, str]) -> bool:
        """Whether the entry ("videos", id), ("texts", text) or ("patches", id) is in the cache; for patch tokens see `has_patches`."""
        kind, name = key
        return name in self._index(kind).places

    def names(self, kind: Kind) -> list[str]:
        """The ids of all cached videos, all cached texts, or the ids of all videos with patch tokens, outdated ones included."""
        return list(self._index(kind).places)

    def places(self, kind: Kind) -> Mapping[str, Place]:
        """The place of each entry, by name."""
        return self._index(kind).places

    def fingerprint(self, video_ids: Sequence[str], patches: bool = False) -> str:
        """SHA-256 of the settings and of the names and writing times of these videos. It changes whenever their features may have.

        patches: whether it depends on their patch tokens too.
        """
        kinds: tuple[Kind, ...] = ("videos", "patches") if patches else ("videos",)
        entries = [[name, *(self._index(kind).written_ns[name] for kind in kinds)] for name in video_ids]
        return hashlib.sha256(json.dumps([self.digest, entries]).encode()).hexdigest()

    def is_current(
        self,
        video_id: str,
        file_size: int,
        file_mtime_ns: int,
        span: Span = WHOLE_FILE,
        digest: Callable[[], str] = lambda: "",
    ) -> bool:
        """Whether a video is cached, and was extracted from this span of its file as the file is now.

        digest: computes the digest of the file. Called only if the size is unchanged but the modification time differs.
        """
        made = self._index("videos").stamps.get(video_id)
        if made is None or (made.file_size, made.start, made.end) != (file_size, *span.bounds):
            return False
        return made.file_mtime_ns == file_mtime_ns or (made.file_digest != "" and made.file_digest == digest())

    def is_made_from(self, video_id: str, file: Path, digest: Callable[[Path], str]) -> bool:
        """Whether a cached video was extracted from this file, judged by the file's size and digest."""
        made = self.stamp(video_id)
        return made.file_size == file.stat().st_size and made.file_digest in ("", digest(file))

    def stamp(self, video_id: str) -> FileStamp:
        """What a cached video was made from."""
        return self._index("videos").stamps[video_id]

    def written_ns(self, video_id: str) -> int:
        """When the features of a cached video were written, in nanoseconds since 1970."""
        return self._index("videos").written_ns[video_id]

    def images_of(self, video_id: str) -> frozenset[Images]:
        """The kinds of images that are stored for a video's frames; empty for a video that is not cached."""
        return self._index("videos").images.get(video_id, frozenset())

    def decoder(self, video_id: str) -> str:
        """The decoder of a video: `cpu` or `cuda` (both ffmpeg), or `pyav`."""
        place = self._index("videos").places[video_id]
        with open_file(place.part.path) as file:
            return str(file[place.part.group]["decoder"].asstr()[place.entry])

    def write_videos(self, entries: Sequence[VideoEntry]) -> None:
        """Add these videos as one part. Raises UserError, naming the video, if arrays have the wrong shape or are not finite."""
        require_videos(entries, self.dimension)
        if not entries:
            return
        self.write_part("videos", video_arrays(entries, self.settings["dtype"]))

    def write_texts(self, entries: Sequence[TextEntry]) -> None:
        """Add these texts as one part. Raises UserError, naming the text, if arrays have the wrong shape or are not finite."""
        require_texts(entries, self.dimension, int(self.settings["max_words"]))
        if not entries:
            return
        self.write_part("texts", text_arrays(entries, self.settings["dtype"]))

    def write_patches(self, entries: Sequence[VideoEntry], kept: int | None) -> None:
        """Add the patch tokens of these videos as one part, after their frames. `kept` is the K of --tokens patches:K, None for all.

        Raises UserError, naming the video, if arrays have the wrong shape or are not finite, and if the cache holds patch tokens of other
        settings. Nothing is written then.
        """
        self.require_patch_settings(kept)
        require_patches(entries, self.dimension, kept, self.patch_settings)
        if entries:
            self.write_part("patches", patch_arrays(entries, kept, self.settings["dtype"]))

    @property
    def patch_settings(self) -> PatchSettings | None:
        """Which patch tokens the cache holds; None if it holds none."""
        return self._index("patches").patches

    def require_patch_settings(self, kept: int | None) -> None:
        """Raise UserError if the cache holds patch tokens of another --tokens. `kept` is the K of patches:K, None for all."""
        there = self.patch_settings
        if there is not None and there.kept != kept:
            raise UserError(f"the cache {self.path} holds --tokens {there.option}: use it, or remove {self.path / 'patches-*.h5'} first")

    def patches_remedy(self) -> str:
        """How to add the patch tokens that a cache lacks, for errors."""
        if self.imported:
            # A cache that was written from Python cannot be imported into.
            return "import again with --patches, or add them with FeatureCache.write_patches"
        there = self.patch_settings
        return f"run extract again with --tokens {'patches or patches:K' if there is None else there.option}"

    def has_patches(self, video_id: str) -> bool:
        """Whether the cache holds patch tokens of a video's frames, made from the same file as the frames."""
        return have_current_patches(self._index("videos"), self._index("patches"), video_id)

    def patches(self, video_ids: Sequence[str], memory_budget: int = DEFAULT_BUDGET, max_frames: int | None = None) -> "Ragged":
        """The patch tokens of these videos, one row [M, D] for each frame that `videos` gives; see there for the arguments.

        Raises UserError, naming the nearest id, if a video is not cached, or if a video has no patch tokens.
        """
        lacking = [name for name in video_ids if self._place("videos", name) and not self.has_patches(name)]
        settings = self.patch_settings
        if lacking or settings is None:
            which = f" of {len(lacking):,} of {len(video_ids):,} videos, such as {quote(lacking[0])}" if lacking else ""
            raise UserError(f"the cache {self.path} has no patch tokens{which}: {self.patches_remedy()}")
        places = [self._place("patches", name) for name in video_ids]
        chosen = [choose_frames(place.stop - place.start, max_frames) for place in places]
        return read_ragged("patches", places, chosen, memory_budget, self.settings, (settings.count,))

    def merge(self, out: Path) -> None:
        """Write the whole cache into one file, which can be opened as a cache. Replaced entries are left out."""
        tables = {name: self.folder / name for name in self.listings.files()}
        indices: dict[Kind, Index] = {kind: self._index(kind) for kind in NAMES}
        write_merged(out, indices, tables, self._recorded, self.clip_parts(), self.provenance, self.extraction)

    def write_table(self, preset: str, captions: pd.DataFrame, videos: pd.DataFrame | None = None) -> None:
        """Store a table of captions and splits as a source named after its preset: see `Listing`.

        Raises UserError if it lacks a column, or if a cell is not text.
        """
        for column in ("video_id", "caption", "split", *["kind"] * ("kind" in captions)):
            if column not in captions:
                raise UserError(f"the table has the columns {', '.join(map(str, captions))}: expected video_id, caption and split")
            wrong = [cell for cell in captions[column].unique() if not isinstance(cell, str)]
            if wrong:
                raise UserError(f"the table's column {column} holds {wrong[0]!r}: expected text in every row")
        if "/" in preset:
            raise UserError(f"{quote(preset)} cannot be the name of a table: leave out the /")
        self.listings.complete(preset, listing_of(captions, videos, Source(preset)))

    def table(self, preset: str | None = None) -> pd.DataFrame:
        """The captions of a preset: see `Listing`. A cache with a single preset needs no name."""
        return self.listings.select(preset).captions

    def frames(self, video_id: str) -> NDArray[Any]:
        """The frame features of a video: [T, D], in the cache's dtype. Raises UserError, naming the nearest id, if it is not cached."""
        return read_rows(self._place("videos", video_id), "frames")

    def seconds(self, video_id: str) -> NDArray[np.float64]:
        """The times of a video's frames in seconds: float64, [T]."""
        return read_rows(self._place("videos", video_id), "seconds")

    def words(self, text: str) -> NDArray[Any]:
        """The token features of a text, start and end included: [L, D]. [0, D] if only its sentence feature is cached."""
        return read_rows(self._place("texts", text), "words")

    def sentence(self, text: str) -> NDArray[Any]:
        """The sentence feature of a text: [D]."""
        sentence: NDArray[Any] = read_rows(one_row(self._place("texts", text)), "sentence")[0]
        return sentence

    def _place(self, kind: Kind, name: str) -> Place:
        places = self._index(kind).places
        if name not in places:
            near = difflib.get_close_matches(str(name), places, n=1)
            hint = f"did you mean {quote(near[0])}?" if near else f"it has {len(places):,}; names({kind!r}) lists them"
            raise UserError(f"the cache {self.path} has no {kind.removesuffix('s')} {quote(name)}: {hint}")
        return places[name]

    def videos(
        self, video_ids: Sequence[str], memory_budget: int = DEFAULT_BUDGET, max_frames: int | None = None, patches: bool = False
    ) -> "VideoFeatures":
        """The frame features of these cached videos, in this order, subsampled to `max_frames` by the rule of extraction.

        With `patches`, their patch tokens too: see `patches`.

        Features that fit into `memory_budget` bytes are loaded into memory. Others are read from disk whenever they are used.
        Raises UserError, naming the nearest id, if one is not cached.
        """
        from data.cache.features import VideoFeatures

        places = [self._place("videos", name) for name in video_ids]
        chosen = [choose_frames(place.stop - place.start, max_frames) for place in places]
        frames = read_ragged("frames", places, chosen, memory_budget, self.settings)
        tokens = self.patches(video_ids, memory_budget - frames.bytes_held, max_frames) if patches else None
        return VideoFeatures(ids=list(video_ids), frames=frames, seconds=read_seconds(places, chosen), patches=tokens)

    def texts(self, texts: Sequence[str], memory_budget: int = DEFAULT_BUDGET, max_words: int | None = None) -> "TextFeatures":
        """The token and sentence features of these cached texts, in this order; see `videos` for the budget.

        A text with more than `max_words` tokens is truncated to its first tokens and the end token. Its sentence feature is unchanged:
        it still describes the whole text.
        """
        from data.cache.features import TextFeatures

        places = [self._place("texts", text) for text in texts]
        chosen = [choose_words(place.stop - place.start, max_words) for place in places]
        first = [np.zeros(1, dtype=np.int64)] * len(places)
        sentences = read_ragged("sentence", list(map(one_row, places)), first, memory_budget, self.settings)
        words = read_ragged("words", places, chosen, memory_budget - sentences.bytes_held, self.settings)
        return TextFeatures(texts=list(texts), words=words, sentences=sentences)

    def text_lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The number of cached tokens of each of these texts, start and end included. int64, [N]."""
        places = (self._index("texts").places[text] for text in texts)
        return np.array([place.stop - place.start for place in places], dtype=np.int64)

    def truncated_texts(self, texts: Sequence[str], count: Callable[[str], int]) -> list[str]:
        """Those of these cached texts that have more tokens than the cache holds, in order.

        count: counts the tokens of a text. Called only for texts whose length is not in the cache.
        """
        places = [self._index("texts").places[text] for text in texts]
        recorded: dict[Part, NDArray[np.int64] | None] = {}
        for part in dict.fromkeys(place.part for place in places):
            with open_file(part.path) as file:
                group = file[part.group]
                recorded[part] = group["tokens"][()] if "tokens" in group else None
        cut = []
        for text, place in zip(texts, places, strict=True):
            of_part, kept = recorded[place.part], place.stop - place.start
            whole = 0 if of_part is None else int(of_part[place.entry])
            # A text with fewer than max_words tokens was not truncated.
            if not whole and kept >= int(self.settings["max_words"]):
                whole = count(text)
            if whole > kept:
                cut.append(text)
        return cut

    def images(self, name: Images, video_id: str) -> list[bytes]:
        """The JPEG files of a video's frames; empty if images of this kind were not stored."""
        return read_images(self._index("videos").places[video_id], name)

    def write_part(self, kind: Kind, arrays: Mapping[str, Any], identity: bytes | None = None) -> None:
        """Add the entries in these datasets (`layout.video_arrays`, `text_arrays`) as one part.

        identity: what the part is named after. Default: its contents, so that writing the same entries twice leaves one part.

        Raises UserError if features are not finite in the cache's dtype, or if the disk is full.
        """
        for name in ("frames", "words", "sentence", "patches"):
            if name in arrays and not all_finite(arrays[name]):
                raise UserError(f"{name} features are not finite as {self.settings['dtype']}: make the cache with --dtype float32")
        self._index(kind).add(kind, Part(self.store(kind, arrays, identity or _content(arrays)), "/"), self.digest)

    def store(
        self,
        kind: Kind,
        arrays: Mapping[str, Any],
        identity: bytes,
        before_naming: Callable[[], object] = lambda: None,
        turn: AbstractContextManager[object] = nullcontext(),  # noqa: B008 - it has no state
    ) -> Path:
        """Write a part without checking or indexing its entries, and return its path. May run in several threads at once.

        before_naming: called when the part is written, before it gets its name and so becomes part of the cache.
        turn: held while HDF5 writes. Threads should share one lock: h5py runs one call at a time, so parts that are written at once are
            all complete at once, and no thread hashes or syncs meanwhile.
        """
        part = self.folder / f"{kind}-{hashlib.sha256(identity).hexdigest()[:16]}.h5"
        with written_whole(part) as temporary:
            with turn, new_file(temporary) as (file, _):
                file.attrs["digest"] = self.digest
                file.attrs["settings"] = json.dumps(self._recorded, sort_keys=True)
                file.attrs["written_ns"] = time.time_ns()
                write_arrays(file, arrays)
            # The disk writes while the processor hashes. `written_whole` syncs again, which is quick: only the seal is new.
            with ThreadPoolExecutor(1) as pool:
                written = pool.submit(sync_file, temporary)
                seal(temporary)
                written.result()
            before_naming()
        return part


def recorded_settings(path: Path) -> dict[str, Any] | None:
    """The settings of the cache in a folder, read from any intact file; None if there is no such file."""
    for file in [path / CLIP_FILE, *(part for kind in NAMES for part in sorted(path.glob(f"{kind}-*.h5")))]:
        if file.is_file() and is_sound(file):
            return dict(BEFORE_4) | _settings_of(file)
    return None


def _content(arrays: Mapping[str, Any]) -> bytes:
    """Digest of the contents of a part."""
    sha = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        sha.update(name.encode())
        sha.update(json.dumps(value).encode() if isinstance(value, list) else np.ascontiguousarray(value).tobytes())
    return sha.digest()


def _settings_of(file: Path) -> dict[str, Any]:
    """The settings recorded in one file of a cache."""
    with open_file(file) as opened:
        settings: dict[str, Any] = json.loads(opened.attrs["settings"])
    return settings
