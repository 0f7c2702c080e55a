"""Lay a cache in an object store: the files that are not there yet, then the manifest, then out with what it no longer names.

Stopped anywhere, it leaves the store as its readers know it, and the next run sends what is left.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.base.errors import UserError, cannot_read
from data.base.progress import Progress
from data.base.sealed import is_sound, read_seal
from data.cache.hdf5 import datasets_of, layout_of, open_file
from data.cache.index import FileStamp
from data.cache.layout import CLIP_FILE, IMAGES, NAMES
from data.cache.listings import PATIENCE_S
from data.cache.tables import checksum_file, is_intact
from data.store.blocks import outside
from data.store.manifest import BLOCK_BYTES, DIGEST_BYTES, MANIFEST, OBJECTS, Entry, Manifest
from data.store.remote import UNFINISHED, Remote
from data.store.store import REQUEST_BYTES

UPLOADS = 4
"""Files that are sent at once. A large one is sent in several pieces at once besides."""
KEY_DIGITS = 32
_KEY = re.compile(rf"[^/]+\.[0-9a-f]{{{KEY_DIGITS}}}\.(h5|parquet|sha256)({re.escape(UNFINISHED)})?")
"""The name of a file in a store, of a run that was stopped too."""
OPENING = {*NAMES.values(), *FileStamp._fields, "offsets", "seconds", "kept", *(f"{name}_offsets" for name in IMAGES["videos"])}
"""The datasets that opening a cache reads."""
TABLES = "tables"
"""Group of the tables of a merged file."""


@dataclass(frozen=True)
class Published:
    """Counts of files, and of bytes sent."""

    files: int
    sent: int
    bytes_sent: int
    removed: int


class _File(NamedTuple):
    """A file to publish: its contents, or its path if it is a large one."""

    name: str
    key: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def publish(cache: Path, address: str, check: bool = False, quiet: bool = True) -> Published:
    """Publish the cache in this folder, or this merged file, at the address.

    check: read everything in the store back, and send what is damaged again.

    Raises UserError if a file of the cache is damaged, or if the store cannot be reached or written.
    """
    remote = Remote(address)
    content = remote.whole(MANIFEST)
    before = _known(content, address)
    there = remote.sizes(OBJECTS)
    try:
        files = _files(cache)
        with Progress("files", len(files), "files", quiet) as progress, ThreadPoolExecutor(UPLOADS) as pool:

            def send(file: _File) -> tuple[Entry, bool]:
                entry = before.get(file.key) or _entry(file)
                lacking = there.get(file.key) != entry.size or (check and not _is_whole(remote, entry))
                if lacking:
                    remote.put(f"{OBJECTS}/{file.key}", file.content)
                progress.update()
                return entry, lacking

            done = list(pool.map(send, files))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} went away meanwhile: let the command that changes the cache end, then publish again") from error
    entries = {file.name: entry for file, (entry, _) in zip(files, done, strict=True)}
    manifest = Manifest(entries, files[0].name if cache.is_file() else "", BLOCK_BYTES).to_bytes()
    if manifest != content:
        remote.put(MANIFEST, manifest)
    # Nothing but what was published: a bucket may have a folder of this name for something else.
    gone = {key for key in there if key in before or _KEY.fullmatch(key)} - {entry.key for entry in entries.values()}
    for key in sorted(gone):
        remote.remove(f"{OBJECTS}/{key}")
    sent = [entry.size for entry, lacking in done if lacking]
    return Published(len(files), len(sent), sum(sent), len(gone))


def _known(content: bytes | None, address: str) -> Mapping[str, Entry]:
    """The entries of the present manifest by key; none if there is no manifest that this program reads."""
    if content is None:
        return {}
    try:
        manifest = Manifest.from_bytes(content, address)
    except UserError:
        return {}  # it will be replaced
    return {entry.key: entry for entry in manifest.files.values()} if manifest.block_bytes == BLOCK_BYTES else {}


def _files(cache: Path) -> list[_File]:
    """The files of a cache that its readers read. Raises UserError if a table is damaged."""
    if cache.is_file():
        return [_sealed(cache)]
    tables: list[_File] = []
    for table in sorted(cache.glob("*.parquet")):
        checksum = cache / checksum_file(table.name)
        tables += [_small(table, _table(table)), _small(checksum, checksum.read_bytes())]
    parts = [file for kind in NAMES for file in sorted(cache.glob(f"{kind}-*.h5"))]
    return [*tables, *map(_sealed, [cache / CLIP_FILE, *parts])]


def _table(path: Path) -> bytes:
    """A table that matches its checksum."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_intact(path):
        if time.monotonic() > deadline:
            raise UserError(f"{path} is damaged: run extract again on the folder or table of that name, which writes it anew")
        time.sleep(PATIENCE_S / 10)
    return path.read_bytes()


def _small(path: Path, content: bytes) -> _File:
    return _File(path.name, _named(path, hashlib.sha256(content).hexdigest()), content)


def _sealed(path: Path) -> _File:
    return _File(path.name, _named(path, read_seal(path)), path)


def _named(path: Path, digest: str) -> str:
    return f"{path.stem}.{digest[:KEY_DIGITS]}{path.suffix}"


def _entry(file: _File) -> Entry:
    """What the manifest says of a file. Raises UserError if the file is damaged."""
    if isinstance(file.content, bytes):
        return Entry(file.key, file.size, _digests(file.content), ((0, file.size),))
    if not is_sound(file.content):
        raise UserError(f"{file.content} is damaged: run extract again, which repairs the cache, then publish it")
    try:
        with file.content.open("rb") as opened:
            digests = list(map(_digests, iter(lambda: opened.read(BLOCK_BYTES), b"")))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise cannot_read(file.content, error) from error
    return Entry(file.key, file.size, b"".join(digests), tuple(outside(_bulk(file.content), file.size)))


def _digests(content: bytes) -> bytes:
    """The SHA-256 of every block, concatenated."""
    pieces = (content[first : first + BLOCK_BYTES] for first in range(0, len(content), BLOCK_BYTES))
    return b"".join(hashlib.sha256(piece).digest() for piece in pieces)


def _bulk(path: Path) -> list[tuple[int, int]]:
    """The ranges of bytes of features, pictures and CLIP's tensors."""
    with open_file(path) as file:
        datasets = [
            dataset
            for name, dataset in datasets_of(file).items()
            if name.rpartition("/")[2] not in OPENING and not name.startswith(f"{TABLES}/") and dataset.shape and dataset.dtype != object
        ]
        return [one for dataset in datasets for one in layout_of(dataset).ranges()]


def _is_whole(remote: Remote, entry: Entry) -> bool:
    """Whether a file in the store is as it was published."""
    step = REQUEST_BYTES // BLOCK_BYTES * BLOCK_BYTES
    for first in range(0, entry.size, step):
        content = remote.ranges([(f"{OBJECTS}/{entry.key}", first, min(first + step, entry.size))])[0]
        if _digests(content) != entry.digests[first // BLOCK_BYTES * DIGEST_BYTES :][: step // BLOCK_BYTES * DIGEST_BYTES]:
            return False
    return True
