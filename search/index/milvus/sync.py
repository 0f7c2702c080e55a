"""Makes a collection equal to a cache: writes the videos that are missing, replaces outdated ones, deletes those that are gone."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from data.base.errors import UserError
from data.base.progress import Progress, say
from search.index.milvus.collection import Collection, Held
from search.index.milvus.rows import Wanted

POLL_S = 0.5


@dataclass(frozen=True)
class Difference:
    """How a collection differs from a cache: ids of videos, sorted."""

    missing: list[str]
    stale: list[str]
    gone: list[str]

    @classmethod
    def of(cls, ledger: Mapping[str, Held], wanted: Wanted) -> "Difference":
        """Compare what a collection holds with what it should hold."""
        return cls(
            missing=sorted(wanted.held.keys() - ledger.keys()),
            stale=sorted(video for video in wanted.held.keys() & ledger.keys() if wanted.held[video] != ledger[video]),
            gone=sorted(ledger.keys() - wanted.held.keys()),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.stale or self.gone)

    def __str__(self) -> str:
        return f"{len(self.missing):,} videos to add, {len(self.stale):,} to replace, {len(self.gone):,} to remove"

    def share(self, shard: tuple[int, int]) -> "Difference":
        """The part of process I of N, `shard`."""
        first, step = shard
        return Difference(self.missing[first::step], self.stale[first::step], self.gone[first::step])


def require_same_cache(collection: Collection, wanted_cache: str, vectors: str, max_frames: int | None, path: object) -> None:
    """Raise UserError if the collection holds vectors of another cache or of other frames."""
    about = collection.about()
    if about.cache != wanted_cache:
        raise UserError(
            f"the collection {collection.name} holds another cache ({about.cache[:12]}... there, {wanted_cache[:12]}... at {path}): "
            "choose another name with --collection, or delete it with search.drop"
        )
    assert about.vectors == vectors
    if about.max_frames != max_frames:
        here, there = ("all frames" if most is None else f"up to {most} frames" for most in (max_frames, about.max_frames))
        raise UserError(
            f"the collection {collection.name} holds {there} of a video, and {here} are asked for: set --max-frames, or choose another "
            "name with --collection"
        )


def synchronize(collection: Collection, wanted: Wanted, shard: tuple[int, int], quiet: bool) -> Difference:
    """Write this process's share of the difference, and return the whole of it.

    Each step leaves a collection that the next call completes, whoever makes it and wherever the last one stopped. When nothing
    differs any more, the collection is written to storage, indexed and marked as complete.
    """
    difference = Difference.of(collection.ledger(), wanted)
    if difference:
        # A search that starts now looks for itself which videos are there.
        collection.mark(None)
    own = difference.share(shard)
    # Without a row, nothing can be there twice; a stopped process may have left rows that no ledger lists.
    write = collection.upsert if collection.count() else collection.insert
    collection.delete([*own.stale, *own.gone])
    todo = sorted([*own.missing, *own.stale])
    with Progress(f"{wanted.vectors} to {collection.name}", len(todo), "videos", quiet) as progress:
        for videos, rows in wanted.batches(todo):
            write(rows)
            progress.update(videos)
    left = Difference.of(collection.ledger(), wanted)
    if left:
        if not quiet:
            say(f"{collection.name}: {left}, which other processes are to do, or the same command once more")
        return difference
    _require_rows(collection, wanted)
    collection.flush()
    _wait_for_index(collection, quiet)
    collection.mark(wanted.fingerprint)
    return difference


def _require_rows(collection: Collection, wanted: Wanted) -> None:
    """Delete and write what a stopped process left over of videos that are no longer as they were."""
    if collection.count() == wanted.rows:
        return
    entries: dict[str, set[int]] = {}
    for video, entry in collection.entries():
        entries.setdefault(video, set()).add(entry)
    extra = {video: there - set(range(wanted.held[video].rows if video in wanted.held else 0)) for video, there in entries.items()}
    for video, numbers in extra.items():
        if numbers:
            collection.delete_rows(video, numbers)
    lacking = sorted(video for video, held in wanted.held.items() if len(entries.get(video, ())) < held.rows)
    for _, rows in wanted.batches(lacking):
        collection.upsert(rows)
    if collection.count() != wanted.rows:
        raise UserError(f"the collection {collection.name} has other rows than were written: delete it with search.drop, then build it")


def _wait_for_index(collection: Collection, quiet: bool) -> None:
    """Wait until the index covers every row, so that the next query is as fast as all others."""
    collection.load()
    total = collection.unindexed()
    with Progress("index", total, "vectors", quiet, delay=POLL_S) as progress:
        left = total
        while left:
            time.sleep(POLL_S)
            now = collection.unindexed()
            progress.update(max(0, left - now))
            left = now
