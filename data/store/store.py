"""A published cache, open for reading: ranges of its files, fetched in blocks, each of which is checked."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock

from data.base.errors import UserError
from data.store.blocks import Block, Range, blocks_of, runs_of
from data.store.disk import DiskCache
from data.store.manifest import MANIFEST, OBJECTS, Entry, Manifest
from data.store.remote import Remote

MEMORY_BYTES = 2**26
"""Blocks that stay in memory, those used last."""
BYTES_AT_ONCE = 2**25
"""Most bytes that are fetched together."""
REQUEST_BYTES = 2**21
"""Most bytes of one request. Longer ranges are divided into several at once."""


class Store:
    """The files of the cache that was published at an address. Safe to use from several threads.

    >>> store = Store("s3://bucket/prefix")
    >>> store.fetch([Range("videos-1.h5", 0, 100), Range("videos-2.h5", 5000, 9000)])  # together
    >>> content = store.read(Range("videos-1.h5", 0, 100))

    Raises UserError if the store cannot be reached, or if nothing was published there.
    """

    def __init__(self, address: str, manifest: Manifest | None = None) -> None:
        """`manifest`: what was published there, if it is known."""
        self.address = address
        self._disk = DiskCache.from_environment()
        self._remote = Remote(address)
        self.manifest = self._read_manifest() if manifest is None else manifest
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()
        """Blocks by their SHA-256."""
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["Store"], tuple[str, Manifest]]:
        # With the manifest: another process must not see what was published since.
        return Store, (self.address, self.manifest)

    def _read_manifest(self) -> Manifest:
        content = self._remote.whole(MANIFEST)
        if content is None:
            raise UserError(
                f"there is no published cache at {self.address}: publish one with python -m data.publish --cache DIR --to {self.address}"
            )
        return Manifest.from_bytes(content, self.address)

    def fetch_opening(self, names: Iterable[str]) -> None:
        """Fetch what opening these files reads, together."""
        self.fetch([Range(name, *one) for name in names for one in self.manifest.files[name].opening])

    def fetch(self, ranges: Iterable[Range]) -> None:
        """Fetch these ranges together, so that `read` finds them in memory or on the local disk. Raises UserError as `read` does."""
        for some in self._batches(ranges):
            self._load(some)

    def read(self, wanted: Range) -> bytes:
        """The bytes of a range, which ends within the file.

        Raises UserError if the store cannot be reached, if a byte is not as it was published, or if the file is no longer there.
        """
        block_bytes = self.manifest.block_bytes
        content = b"".join(block for some in self._batches([wanted]) for block in self._load(some))
        first = wanted.start // block_bytes * block_bytes
        return content[wanted.start - first : wanted.stop - first]

    def _batches(self, ranges: Iterable[Range]) -> Iterator[Sequence[Block]]:
        blocks = blocks_of(ranges, self.manifest.block_bytes)
        most = max(1, BYTES_AT_ONCE // self.manifest.block_bytes)
        for first in range(0, len(blocks), most):
            yield blocks[first : first + most]

    def _load(self, blocks: Sequence[Block]) -> list[bytes]:
        """These blocks, from memory, the local disk or the store."""
        digests = {block: self._entry(block).digest(block.number) for block in blocks}
        found: dict[Block, bytes] = {}
        with self._lock:
            for block, digest in digests.items():
                if digest in self._memory:
                    self._memory.move_to_end(digest)
                    found[block] = self._memory[digest]
        for block in digests.keys() - found.keys():
            content = self._disk.get(digests[block]) if self._disk.limit else None
            if content is not None:
                found[block] = content
        lacking = digests.keys() - found.keys()
        if lacking:
            fetched = self._fetched(lacking)
            found |= fetched
            self._disk.keep({digests[block]: content for block, content in fetched.items()})
        with self._lock:
            self._memory |= {digest: found[block] for block, digest in digests.items()}
            while len(self._memory) * self.manifest.block_bytes > MEMORY_BYTES:
                self._memory.popitem(last=False)
        return [found[block] for block in blocks]

    def _fetched(self, blocks: Iterable[Block]) -> dict[Block, bytes]:
        size = self.manifest.block_bytes
        runs = list(runs_of(blocks, max(1, REQUEST_BYTES // size)))
        wanted = [
            (
                f"{OBJECTS}/{self._entry(run[0]).key}",
                run[0].number * size,
                min((run[-1].number + 1) * size, self._entry(run[0]).size),
            )
            for run in runs
        ]
        try:
            contents = self._remote.ranges(wanted)
        except FileNotFoundError as error:
            raise UserError(
                f"{self.address} was published anew since it was opened, or a file of it is gone ({error}): start again; if that does not "
                "help, publish the cache again"
            ) from error
        found: dict[Block, bytes] = {}
        for run, content in zip(runs, contents, strict=True):
            for i, block in enumerate(run):
                found[block] = piece = content[i * size : (i + 1) * size]
                if hashlib.sha256(piece).digest() != self._entry(block).digest(block.number):
                    raise UserError(
                        f"{self.address}/{OBJECTS}/{self._entry(block).key} is damaged: upload it anew with python -m data.publish --cache "
                        f"DIR --to {self.address} --check"
                    )
        return found

    def _entry(self, block: Block) -> Entry:
        return self.manifest.files[block.name]
