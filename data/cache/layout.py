"""What the files of a feature cache hold; docs/reference/cache.md has the layout.

Features are ragged: rows of all entries one after the other, and offsets.

Shape suffixes: T rows of an entry (frames or tokens), D joint dimension.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.cache.extraction import Extraction, write_extraction
from data.cache.hdf5 import Group, read_arrays, write_arrays
from data.span import WHOLE_FILE, Span

FORMAT = 4
READABLE = (3, FORMAT)
BEFORE_4: Mapping[str, Any] = {"pictures": "stored", "special_tokens": "tokens"}
"""Settings that a cache of format 3 does not record, and the rules it was made by. It is added to by these."""

FAILURES_FILE = "failures.csv"
"""The videos that failed; see extract/failures.py."""
CLIP_FILE = "clip.h5"

Kind = Literal["videos", "texts"]
Images = Literal["thumbnails", "pixels"]

NAMES: dict[Kind, str] = {"videos": "video_id", "texts": "text"}

# The datasets of a part: those with a row for every frame or token, and those with a row for every entry.
ROWS: dict[Kind, tuple[str, ...]] = {"videos": ("frames", "seconds"), "texts": ("words",)}
ENTRIES: dict[Kind, tuple[str, ...]] = {
    "videos": ("file_size", "file_mtime_ns", "file_digest", "start", "end", "frames_expected", "hdr", "decoder"),
    "texts": ("tokens", "sentence"),
}
UNKNOWN: Mapping[str, Any] = {"file_digest": "", "tokens": 0}
"""What stands for a dataset that parts of format 3 do not have."""
IMAGES: dict[Kind, tuple[Images, ...]] = {"videos": ("thumbnails", "pixels"), "texts": ()}
"""Datasets of the bytes of JPEG files one after the other, one for every row or none; `NAME_offsets` says where each begins."""


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
    """One video to write: its frame features [T, D], the time of each in seconds from the beginning of the file, and the file.

    `file_digest` is that of `extract.plan.digest`, empty where it is not known. `span` is the part of the file that was looked
    at. `frames_expected` is the number of sampled frames that the header of a file announces that is cut short, 0 for
    a whole one; `hdr` the transfer function of a video of high dynamic range, else empty; `decoder` what decoded it. `thumbnails` and
    `pixels` are JPEG files, one for every frame, or none.
    """

    video_id: str
    frames_TD: NDArray[np.float32]
    seconds_T: NDArray[np.float64]
    file_size: int
    file_mtime_ns: int
    file_digest: str = ""
    span: Span = WHOLE_FILE
    frames_expected: int = 0
    hdr: str = ""
    decoder: str = "cpu"
    thumbnails: Sequence[bytes] = ()
    pixels: Sequence[bytes] = ()


@dataclass(frozen=True)
class TextEntry:
    """One text to write: the features [T, D] of its tokens, start and end included, and its sentence feature [D].

    `tokens` counts all tokens of the text: more than T where it was cut, 0 where it is not known.
    """

    text: str
    words_TD: NDArray[np.float32]
    sentence_D: NDArray[np.float32]
    tokens: int = 0


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that decide the bytes of the features."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def format_of(settings: Mapping[str, Any]) -> int:
    """The format of a cache that records these settings."""
    return FORMAT if settings.keys() >= BEFORE_4.keys() else 3


def feature_bytes(settings: Mapping[str, Any]) -> int:
    """The bytes of the feature of one frame or token."""
    return int(settings["dimension"]) * int(np.dtype(settings["dtype"]).itemsize)


def offsets_of(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of the rows of so many begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def video_arrays(entries: Sequence[VideoEntry], dtype: str) -> dict[str, Any]:
    """The datasets of a part of videos."""
    arrays: dict[str, Any] = {
        "video_id": [entry.video_id for entry in entries],
        "offsets": offsets_of([len(entry.frames_TD) for entry in entries]),
        "frames": np.concatenate([entry.frames_TD for entry in entries]).astype(dtype),
        "seconds": np.concatenate([entry.seconds_T for entry in entries]),
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


def text_arrays(entries: Sequence[TextEntry], dtype: str) -> dict[str, Any]:
    """The datasets of a part of texts."""
    return {
        "text": [entry.text for entry in entries],
        "offsets": offsets_of([len(entry.words_TD) for entry in entries]),
        "words": np.concatenate([entry.words_TD for entry in entries]).astype(dtype),
        "sentence": np.stack([entry.sentence_D for entry in entries]).astype(dtype),
        "tokens": np.array([entry.tokens for entry in entries], dtype=np.int64),
    }


def fill_clip(
    file: Group, settings: Mapping[str, Any], clip: ClipParts, provenance: Mapping[str, Any], extraction: Extraction | None
) -> None:
    """Write what the cache as a whole has; `extraction` is None where no extraction made it."""
    file.attrs["format"] = format_of(settings)
    file.attrs["settings"] = json.dumps(settings, sort_keys=True)
    file.attrs["provenance"] = json.dumps(provenance)
    if extraction is not None:
        write_extraction(extraction, file.attrs)
    file.attrs["logit_scale"] = clip.logit_scale
    file.attrs["heads"] = clip.heads
    file.attrs["activation"] = clip.activation
    write_arrays(file, clip.tensors)


def read_clip(file: Group) -> ClipParts:
    """What stage two takes from CLIP."""
    return ClipParts(read_arrays(file), float(file.attrs["logit_scale"]), int(file.attrs["heads"]), str(file.attrs["activation"]))
