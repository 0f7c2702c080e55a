"""The contents of the files of a feature cache; docs/reference/cache.md has the layout as a table.

Features are ragged: the rows of all entries are concatenated, and offsets delimit them.

Shape suffixes: T rows of an entry (frames or tokens), M patch tokens of a frame, D joint dimension.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.quoting import quote
from data.cache.extraction import Extraction, write_extraction
from data.cache.hdf5 import Group, read_arrays, stored_arrays, write_arrays
from data.span import WHOLE_FILE, Span
from data.store.path import CachePath, StorePath

FORMAT = 4
READABLE = (3, FORMAT)
BEFORE_4: Mapping[str, Any] = {"pictures": "stored", "special_tokens": "tokens"}
"""Settings that a cache of format 3 does not record, with the values it was made by. New entries follow them too."""

UNRECORDED: Mapping[str, str] = {"decode_device": "cpu", "matmul": "blas", "resize_on": "cpu"}
"""Settings of an extraction that a cache records only if they have another value."""

DTYPES = ("float16", "float32")
REQUIRED = ("weights", "dimension", "max_words", "dtype")
"""The settings that every cache records."""

FAILURES_FILE = "failures.csv"
"""The list of failed videos; see extract/failures.py."""
CLIP_FILE = "clip.h5"

Kind = Literal["videos", "texts", "patches"]
Images = Literal["thumbnails", "pixels"]

NAMES: dict[Kind, str] = {"videos": "video_id", "texts": "text", "patches": "video_id"}

# Datasets of a part: ROWS have one row per frame or token, ENTRIES one row per entry.
ROWS: dict[Kind, tuple[str, ...]] = {"videos": ("frames", "seconds"), "texts": ("words",), "patches": ("patches",)}
ENTRIES: dict[Kind, tuple[str, ...]] = {
    "videos": ("file_size", "file_mtime_ns", "file_digest", "start", "end", "frames_expected", "hdr", "decoder"),
    "texts": ("tokens", "sentence"),
    "patches": ("file_size", "file_mtime_ns", "file_digest", "start", "end"),
}
WHOLE: dict[Kind, tuple[str, ...]] = {"videos": (), "texts": (), "patches": ("kept",)}
"""Datasets with one value for the whole part."""
UNKNOWN: Mapping[str, Any] = {"file_digest": "", "tokens": 0}
"""Values to assume for datasets that parts of format 3 lack."""
FINITE_STEP = 2**17
"""Features that are checked at once."""
INFINITY_BITS = 0x7C00
"""Bits of infinity in float16; NaN has more, whatever its sign."""
IMAGES: dict[Kind, tuple[Images, ...]] = {"videos": ("thumbnails", "pixels"), "texts": (), "patches": ()}
"""Datasets of concatenated JPEG files. `NAME_offsets` delimits them: one file per row, or an empty one if none was stored."""


@dataclass(frozen=True)
class ClipParts:
    """The parts of CLIP that stage two needs, so that it never needs the checkpoint.

    tensors: `positional_embedding` [positions, width] of the text tower, and `blocks.I.NAME` of its first blocks. float32. Empty if the
        features were imported, or if the tower is not CLIP's.
    logit_scale: the factor itself, not its logarithm.
    heads, activation: number of attention heads and activation function of the text blocks; 0 and "unknown" without blocks.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    logit_scale: float
    heads: int
    activation: str


LOGIT_SCALE = 100.0
"""The logit scale of OpenAI's CLIP, assumed for features that were imported without one."""
NO_CLIP = ClipParts({}, LOGIT_SCALE, 0, "unknown")
"""The parts of an unknown CLIP."""


@dataclass(frozen=True)
class VideoEntry:
    """One video to write: its frame features [T, D], their times in seconds from the start of the file, and its file.

    file_size, file_mtime_ns: of the file that the features were made from; 0 if unknown.
    file_digest: from `extract.plan.digest`; empty if unknown.
    span: the part of the file that was sampled.
    frames_expected: for a truncated file, the number of sampled frames that its header promises; 0 for a complete file.
    hdr: the transfer function of an HDR video, else empty.
    decoder: `cpu`, `cuda` or `pyav`.
    thumbnails, pixels: JPEG files, one per frame, or none.
    patch_TMD: the patch tokens of every frame, or None. They are written by `FeatureCache.write_patches`.
    """

    video_id: str
    frames_TD: NDArray[np.float32]
    seconds_T: NDArray[np.float64]
    file_size: int = 0
    file_mtime_ns: int = 0
    file_digest: str = ""
    span: Span = WHOLE_FILE
    frames_expected: int = 0
    hdr: str = ""
    decoder: str = "cpu"
    thumbnails: Sequence[bytes] = ()
    pixels: Sequence[bytes] = ()
    patch_TMD: NDArray[Any] | None = None


@dataclass(frozen=True)
class PatchSettings:
    """Which patch tokens of a frame a cache holds; all its patch tokens were made with the same.

    kept: the K of --tokens patches:K; None for all patches of a frame.
    count: M, the number of patch tokens of every frame.
    """

    kept: int | None
    count: int

    @property
    def option(self) -> str:
        """The value of --tokens that makes them."""
        return "patches" if self.kept is None else f"patches:{self.kept}"

    def __str__(self) -> str:
        return f"--tokens {self.option} ({self.count:,} a frame)"


@dataclass(frozen=True)
class TextEntry:
    """One text to write: its token features [T, D], start and end included, and its sentence feature [D].

    words_TD: [0, D] if only the sentence feature is known. Heads that read words then refuse the text.
    tokens: the number of tokens of the whole text; more than T if it was truncated, 0 if unknown.
    """

    text: str
    words_TD: NDArray[np.float32]
    sentence_D: NDArray[np.float32]
    tokens: int = 0


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that decide the bytes of the features."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def format_of(settings: Mapping[str, Any]) -> int:
    """The format of a cache that records these settings: 3 for an extraction that lacks those of format 4."""
    return 3 if "fps" in settings and not settings.keys() >= BEFORE_4.keys() else FORMAT


def feature_bytes(settings: Mapping[str, Any]) -> int:
    """The bytes of the feature of one frame or token."""
    return int(settings["dimension"]) * int(np.dtype(settings["dtype"]).itemsize)


def patch_bytes(settings: Mapping[str, Any], patches: PatchSettings) -> int:
    """The bytes of the patch tokens of one frame."""
    return patches.count * feature_bytes(settings)


def row_bytes_of(kind: Kind, settings: Mapping[str, Any], patches: PatchSettings | None) -> int:
    """The bytes of one row of a kind: a feature, or the patch tokens of a frame."""
    return patch_bytes(settings, patches) if kind == "patches" and patches is not None else feature_bytes(settings)


def all_finite(features: NDArray[Any]) -> bool:
    """Whether no feature is NaN or infinite."""
    if features.dtype != np.float16:
        return bool(np.isfinite(features).all())
    # Bits, read as integers: numpy converts float16 to float32 first, which takes several times longer. In pieces that stay in the
    # processor's cache.
    bits = np.ascontiguousarray(features).reshape(-1).view(np.uint16)
    pieces = (bits[first : first + FINITE_STEP] for first in range(0, len(bits), FINITE_STEP))
    return all(int((piece & 0x7FFF).max()) < INFINITY_BITS for piece in pieces)


def offsets_of(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Cumulative offsets, one more than lengths: entry i owns rows offsets[i]:offsets[i + 1].

    >>> offsets_of([2, 0, 3])
    array([0, 2, 2, 5])
    """
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def require_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError if the settings of a new cache lack a required one, or if one cannot be what it says."""
    lacking = [name for name in REQUIRED if name not in settings]
    if lacking:
        raise UserError(f"the settings of the new cache {path} lack {', '.join(lacking)}: every cache records {', '.join(REQUIRED)}")
    right = {
        "weights": (isinstance(settings["weights"], str) and settings["weights"] != "", "text that tells the encoder from others"),
        "dimension": (type(settings["dimension"]) is int and settings["dimension"] > 0, "an int above 0"),
        "max_words": (type(settings["max_words"]) is int and settings["max_words"] > 0, "an int above 0"),
        "dtype": (settings["dtype"] in DTYPES and isinstance(settings["dtype"], str), f"one of the strings {' and '.join(DTYPES)}"),
    }
    for name, (fits, expected) in right.items():
        if not fits:
            raise UserError(f"the settings of the new cache {path}: {name} is {settings[name]!r}: expected {expected}")
    try:
        json.dumps(dict(settings))
    except TypeError as error:
        raise UserError(f"the settings of the new cache {path} must be values of JSON: {error}") from error


def require_same(path: Path, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise UserError, naming every setting that differs, if a cache records other settings than these."""
    usual = {**BEFORE_4, **UNRECORDED}
    recorded, given = {**usual, **recorded}, {**usual, **given}
    differing = [
        f"{key} is {_short(recorded.get(key))} there and {_short(given.get(key))} here"
        for key in sorted({*recorded, *given})
        if recorded.get(key) != given.get(key)
    ]
    if differing:
        raise UserError(f"the cache {path} was made with other settings ({'; '.join(differing)}): use them, or another --cache")


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def require_videos(entries: Sequence[VideoEntry], dimension: int) -> None:
    """Raise UserError if a video cannot be written: its id, the shape of its frames [T, D], or its times [T]."""
    for entry in entries:
        place = f"video {_checked_name(entry.video_id)}"
        shape, times = np.shape(entry.frames_TD), np.shape(entry.seconds_T)
        if len(shape) != 2 or shape[1] != dimension or not shape[0]:
            raise UserError(f"{place}: frames have the shape {list(shape)}: expected [frames, {dimension}]")
        if times != shape[:1]:
            raise UserError(f"{place}: {shape[0]} frames and seconds of shape {list(times)}: give one time for each frame")
        if not np.isfinite(np.asarray(entry.seconds_T, dtype=np.float64)).all():
            raise UserError(f"{place}: seconds hold NaN or infinity: give the time of each frame")


def require_patches(entries: Sequence[VideoEntry], dimension: int, kept: int | None, there: PatchSettings | None) -> None:
    """Raise UserError if patch tokens cannot be written: the video's id, or a shape other than [T, M, D].

    M is `kept`, or that of the patch tokens that the cache holds already, `there`; else that of the first video.
    """
    count = kept or (0 if there is None else there.count)
    for entry in entries:
        place = f"video {_checked_name(entry.video_id)}"
        if entry.patch_TMD is None:
            raise UserError(f"{place} has no patch tokens: give patch_TMD, or leave the video out")
        shape = np.shape(entry.patch_TMD)
        count = count or (shape[1] if len(shape) == 3 else 0)
        if shape != (len(entry.frames_TD), count, dimension) or 0 in shape:
            raise UserError(
                f"{place}: patch tokens have the shape {list(shape)}: expected [{len(entry.frames_TD)}, {count or 'tokens'}, {dimension}]"
            )


def require_texts(entries: Sequence[TextEntry], dimension: int, max_words: int) -> None:
    """Raise UserError if a text cannot be written: the text itself, or the shape of its tokens [L, D] or its sentence feature [D]."""
    for entry in entries:
        place = f"text {_checked_name(entry.text)}"
        words, sentence = np.shape(entry.words_TD), np.shape(entry.sentence_D)
        if len(words) != 2 or words[1] != dimension or words[0] > max_words:
            raise UserError(f"{place}: words have the shape {list(words)}: expected [tokens, {dimension}], and at most {max_words} tokens")
        if sentence != (dimension,):
            raise UserError(f"{place}: the sentence has the shape {list(sentence)}: expected [{dimension}]")


def _checked_name(name: object) -> str:
    """The name for an error. Raises UserError if HDF5 cannot store it."""
    if not isinstance(name, str) or "\0" in name or name.encode("utf-8", "replace").decode() != name:
        raise UserError(f"{quote(name)} cannot be a name in a cache: use text without zero bytes and halves of characters")
    return quote(name)


def video_arrays(entries: Sequence[VideoEntry], dtype: str) -> dict[str, Any]:
    """The datasets of a part of videos."""
    arrays: dict[str, Any] = {
        "video_id": [entry.video_id for entry in entries],
        "offsets": offsets_of([len(entry.frames_TD) for entry in entries]),
        "frames": _as(dtype, np.concatenate([entry.frames_TD for entry in entries])),
        "seconds": np.concatenate([entry.seconds_T for entry in entries]).astype(np.float64, copy=False),
        "file_size": np.array([entry.file_size for entry in entries], dtype=np.int64),
        "file_mtime_ns": np.array([entry.file_mtime_ns for entry in entries], dtype=np.int64),
        "file_digest": [entry.file_digest for entry in entries],
        "start": np.array([entry.span.bounds[0] for entry in entries], dtype=np.float64),
        "end": np.array([entry.span.bounds[1] for entry in entries], dtype=np.float64),
        "frames_expected": np.array([entry.frames_expected for entry in entries], dtype=np.int64),
        "hdr": [entry.hdr for entry in entries],
        "decoder": [entry.decoder for entry in entries],
    }
    for name in IMAGES["videos"]:
        images: list[bytes] = []
        for entry in entries:
            of_entry = getattr(entry, name)
            assert len(of_entry) in (0, len(entry.frames_TD))
            images += of_entry or [b""] * len(entry.frames_TD)
        arrays[name] = np.frombuffer(b"".join(images), dtype=np.uint8)
        arrays[f"{name}_offsets"] = offsets_of([len(image) for image in images])
    return arrays


def _as(dtype: str, features: NDArray[Any]) -> NDArray[Any]:
    """The features in the dtype of the cache. One that is too large becomes infinite; `write_part` refuses those."""
    with np.errstate(over="ignore"):
        return features.astype(dtype, copy=False)


def bare_video_arrays(
    video_ids: Sequence[str],
    frames_RD: NDArray[Any],
    counts: Sequence[int],
    seconds_R: NDArray[np.float64],
    stamps: Sequence[tuple[int, int]],
) -> dict[str, Any]:
    """The datasets of a part of videos, from arrays that are concatenated already; without pictures and facts about a decoder.

    stamps: size and modification time of the file of each video.
    """
    count, rows = len(video_ids), len(frames_RD)
    nothing = [""] * count
    arrays: dict[str, Any] = {
        "video_id": list(video_ids),
        "offsets": offsets_of(counts),
        "frames": frames_RD,
        "seconds": seconds_R,
        "file_size": np.array([size for size, _ in stamps], dtype=np.int64),
        "file_mtime_ns": np.array([mtime_ns for _, mtime_ns in stamps], dtype=np.int64),
        "file_digest": nothing,
        "start": np.full(count, WHOLE_FILE.bounds[0]),
        "end": np.full(count, WHOLE_FILE.bounds[1]),
        "frames_expected": np.zeros(count, dtype=np.int64),
        "hdr": nothing,
        "decoder": nothing,
    }
    for name in IMAGES["videos"]:
        arrays[name], arrays[f"{name}_offsets"] = np.empty(0, dtype=np.uint8), np.zeros(rows + 1, dtype=np.int64)
    return arrays


def patch_arrays(entries: Sequence[VideoEntry], kept: int | None, dtype: str) -> dict[str, Any]:
    """The datasets of a part of patch tokens."""
    patches = [entry.patch_TMD for entry in entries if entry.patch_TMD is not None]
    assert len(patches) == len(entries)
    stamps = [(entry.file_size, entry.file_mtime_ns, entry.file_digest, *entry.span.bounds) for entry in entries]
    rows_RMD = _as(dtype, np.concatenate(patches))
    return bare_patch_arrays([entry.video_id for entry in entries], rows_RMD, [len(patch_TMD) for patch_TMD in patches], kept, stamps)


def bare_patch_arrays(
    video_ids: Sequence[str],
    rows_RMD: NDArray[Any],
    counts: Sequence[int],
    kept: int | None,
    stamps: Sequence[tuple[int, int, str, float, float]],
) -> dict[str, Any]:
    """The datasets of a part of patch tokens, from arrays that are concatenated already.

    kept: the K of --tokens patches:K.
    stamps: of each video the file it was made from, as in `FileStamp`: size, modification time, digest, and the span's start and end.
    """
    sizes, times, digests, starts, ends = zip(*stamps, strict=True)
    return {
        "video_id": list(video_ids),
        "offsets": offsets_of(counts),
        "patches": rows_RMD,
        "kept": np.array(kept or 0),
        "file_size": np.array(sizes, dtype=np.int64),
        "file_mtime_ns": np.array(times, dtype=np.int64),
        "file_digest": list(digests),
        "start": np.array(starts, dtype=np.float64),
        "end": np.array(ends, dtype=np.float64),
    }


def read_patch_settings(group: Group) -> PatchSettings:
    """The settings of a part of patch tokens."""
    return PatchSettings(int(group["kept"][()]) or None, int(group["patches"].shape[1]))


def text_arrays(entries: Sequence[TextEntry], dtype: str) -> dict[str, Any]:
    """The datasets of a part of texts."""
    return {
        "text": [entry.text for entry in entries],
        "offsets": offsets_of([len(entry.words_TD) for entry in entries]),
        "words": _as(dtype, np.concatenate([entry.words_TD for entry in entries])),
        "sentence": _as(dtype, np.stack([entry.sentence_D for entry in entries])),
        "tokens": np.array([entry.tokens for entry in entries], dtype=np.int64),
    }


def write_clip(
    file: Group, settings: Mapping[str, Any], clip: ClipParts, provenance: Mapping[str, Any], extraction: Extraction | None
) -> None:
    """Write CLIP_FILE, the facts about the whole cache. `extraction` is None if no extraction made it."""
    file.attrs["format"] = format_of(settings)
    file.attrs["settings"] = json.dumps(settings, sort_keys=True)
    file.attrs["provenance"] = json.dumps(provenance)
    if extraction is not None:
        write_extraction(extraction, file.attrs)
    file.attrs["logit_scale"] = clip.logit_scale
    file.attrs["heads"] = clip.heads
    file.attrs["activation"] = clip.activation
    write_arrays(file, clip.tensors)


def read_clip(file: Group, path: CachePath) -> ClipParts:
    """The parts of CLIP that `write_clip` stored in the file at `path`."""
    tensors = stored_arrays(file, path) if isinstance(path, StorePath) else read_arrays(file)
    return ClipParts(tensors, float(file.attrs["logit_scale"]), int(file.attrs["heads"]), str(file.attrs["activation"]))
