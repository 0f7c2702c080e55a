"""Keeps an index of FAISS in a folder, and brings it up to date with its gallery.

    shard-HASH.faiss    a shard, sealed
    videos-HASH.json    for each shard, the number and key of each of its videos, sealed
    index.json          the names of the others; written last, so that it names whole files at any time

A key says which vectors a video has: see `search.index.candidates.video_keys`. When the gallery changes, full shards whose videos have
not changed stay; the videos of other shards are added anew.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import search.index.vectors as vectors_module
from data.base.errors import UserError, not_as_written, one_line
from data.base.sealed import SEAL_BYTES, is_sound, write_sealed
from data.base.whole_files import locked_folder, remove_stale, write_json
from data.base.writable import make_folder
from data.compute.memory import raise_if_exhausted
from search.index.vectors import Shard, VideoIndex

FORMAT = 3
INDEX_FILE = "index.json"
UPDATE = "bring it up to date with python -m search.add"


@dataclass(frozen=True)
class Contents:
    """What index.json says, and the keys of each shard's videos by their number."""

    fingerprint: str
    dimension: int
    shards: list[str]
    numbers: list[list[int]]
    keys: list[list[str]]
    videos: int


def save_index(index: VideoIndex, folder: Path, fingerprint: str, keys: Sequence[str]) -> None:
    """Write the index into a folder. `keys`: of each video of the gallery. The fingerprint identifies all of them: see `load_index`."""
    make_folder(folder, "--index")
    remove_stale(folder)
    # Another process may save an index of other videos here, and each removes what its own does not need.
    with locked_folder(folder):
        _save(index, folder, fingerprint, keys)


def _save(index: VideoIndex, folder: Path, fingerprint: str, keys: Sequence[str]) -> None:
    import faiss

    names = []
    for shard in index.shards:
        content = faiss.serialize_index(shard.vectors).tobytes()
        names.append(f"shard-{hashlib.sha256(content).hexdigest()[:16]}.faiss")
        if not (folder / names[-1]).exists() or not is_sound(folder / names[-1]):
            write_sealed(folder / names[-1], bytes(SEAL_BYTES) + content)
    numbers = [shard.number_V.tolist() for shard in index.shards]
    listed = json.dumps({"numbers": numbers, "keys": [[keys[number] for number in some] for some in numbers]}).encode()
    videos = f"videos-{hashlib.sha256(listed).hexdigest()[:16]}.json"
    write_sealed(folder / videos, bytes(SEAL_BYTES) + listed)
    head = {"format": FORMAT, "fingerprint": fingerprint, "dimension": index.dimension, "videos": index.videos}
    head |= {"shards": names, "list": videos}
    write_json(folder / INDEX_FILE, head | {"sha256": _digest(head)})
    for file in _parts(folder):
        if file.name not in {*names, videos}:
            file.unlink(missing_ok=True)


def delete_index(folder: Path) -> None:
    """Delete the index in a folder, and the folder unless it holds other files. Raises UserError if there is no index."""
    head, parts = folder / INDEX_FILE, _parts(folder)
    if not parts and b'"fingerprint"' not in head.read_bytes():
        raise UserError(f"{head} is not of an index: name the folder of one with --index")
    with locked_folder(folder):
        # First what makes it an index: a deletion that is stopped leaves none.
        head.unlink()
        for file in [*parts, *folder.glob(".shard-*.tmp"), *folder.glob(".videos-*.tmp"), *folder.glob(f".{INDEX_FILE}.*.tmp")]:
            file.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _parts(folder: Path) -> list[Path]:
    """The files that an index.json can name."""
    return [*folder.glob("shard-*.faiss"), *folder.glob("videos-*.json")]


def load_index(folder: Path, fingerprint: str) -> VideoIndex:
    """Read the index in a folder. Raises UserError if any byte is damaged, or if the index has another fingerprint."""
    with locked_folder(folder):
        contents = _read_contents(folder)
        if contents.fingerprint != fingerprint:
            raise UserError(
                f"the index {folder} was built from another cache, other videos or other vectors ({contents.fingerprint[:12]}... there, "
                f"{fingerprint[:12]}... here): {UPDATE}, name another folder with --index, or delete this one"
            )
        shards = [_shard(folder, name, numbers) for name, numbers in zip(contents.shards, contents.numbers, strict=True)]
    return VideoIndex(contents.dimension, shards=shards, videos=contents.videos)


def read_contents(folder: Path) -> Contents:
    """What the index in a folder holds. Raises UserError if it is damaged, or of another version of this program."""
    with locked_folder(folder):
        return _read_contents(folder)


def _read_contents(folder: Path) -> Contents:
    try:
        head = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        if head["format"] != FORMAT:
            raise UserError(f"the index {folder} has format {head['format']}, this program reads {FORMAT}: delete it")
        if head.pop("sha256") != _digest(head):
            raise UserError(f"the index {folder} is damaged ({INDEX_FILE}): delete it")
        videos = json.loads(_content(folder, head["list"]))
        return Contents(head["fingerprint"], head["dimension"], head["shards"], videos["numbers"], videos["keys"], head["videos"])
    except (OSError, KeyError, TypeError, RuntimeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise not_as_written(folder, error, f"the index {folder} is damaged ({one_line(error)}): delete it") from error


def updated_index(
    folder: Path, keys: Sequence[str], add: Callable[[VideoIndex, NDArray[np.int64]], None]
) -> tuple[VideoIndex, dict[str, int]]:
    """The index in a folder, brought up to date with a gallery whose videos have these keys; and how many videos were added or removed, and
    how many of those that were there already were indexed again.

    add: adds the videos with these ascending numbers to the index.
    """
    number = {key: i for i, key in enumerate(keys)}
    kept = []
    with locked_folder(folder):
        contents = _read_contents(folder)
        for name, of_shard in zip(contents.shards, contents.keys, strict=True):
            if all(key in number for key in of_shard):
                shard = _shard(folder, name, [number[key] for key in of_shard])
                if shard.vectors.ntotal >= vectors_module.SHARD_VECTORS:
                    kept.append(shard)
    index = VideoIndex(contents.dimension, shards=kept)
    there = np.concatenate([np.empty(0, dtype=np.int64), *(shard.number_V for shard in kept)])
    left = np.setdiff1d(np.arange(len(keys)), there)
    add(index, left)
    index.close_shard()
    index.videos = len(keys)
    before = {key for of_shard in contents.keys for key in of_shard}
    counts = {"added": len(number.keys() - before), "removed": len(before - number.keys())}
    return index, counts | {"again": len(left) - counts["added"]}


def _shard(folder: Path, name: str, numbers: Sequence[int]) -> Shard:
    import faiss

    content = np.frombuffer(_content(folder, name), np.uint8)
    try:
        return Shard(faiss.deserialize_index(content), np.array(numbers, dtype=np.int64))
    except RuntimeError as error:
        raise_if_exhausted(error)
        raise UserError(f"the index {folder} is damaged ({name}: {one_line(error)}): delete it") from error


def _content(folder: Path, name: str) -> bytes:
    file = folder / name
    if not file.exists() or not is_sound(file):
        raise UserError(f"the index {folder} is damaged ({name}): delete it")
    return file.read_bytes()[SEAL_BYTES:]


def _digest(head: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode()).hexdigest()
