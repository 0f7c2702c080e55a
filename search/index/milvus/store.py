"""Fills, describes and deletes collections of Milvus, for the commands of `search`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from data.base.errors import UserError
from data.cache import FeatureCache
from search.index.candidates import Vectors
from search.index.commands import FillOptions, StoreOptions
from search.index.milvus.client import Milvus
from search.index.milvus.collection import About, Collection
from search.index.milvus.kinds import IndexPlan, plan_index
from search.index.milvus.opening import collection_name, require_collection
from search.index.milvus.rows import Wanted
from search.index.milvus.sync import Difference, require_same_cache, synchronize


@contextmanager
def connected(options: StoreOptions, make: bool = False) -> Iterator[Milvus]:
    """A connection that is closed at the end. `make`: make a file that does not exist."""
    milvus = Milvus(options, make)
    try:
        yield milvus
    finally:
        milvus.close()


def fill(
    options: FillOptions,
    cache: FeatureCache,
    video_ids: Sequence[str],
    shard: tuple[int, int],
    kind: str | None = None,
    params: str | None = None,
    make: bool = False,
) -> Iterator[str]:
    """Bring the collections up to date with the cache, and say of each what was done.

    kind, params: the index of a new collection (`plan_index`). make: make collections that do not exist.

    Raises UserError if Milvus does not answer or a collection holds something else.
    """
    wanted = [Wanted.of_cache(cache, video_ids, vectors, options.max_frames) for vectors in options.kinds()]
    plans = [plan_index(one.rows, one.dimension, kind, params) for one in wanted]
    with connected(options, make) as milvus:
        collections = [_opened(milvus, options, cache, one, plan, make) for one, plan in zip(wanted, plans, strict=True)]
        for one, plan, collection in zip(wanted, plans, collections, strict=True):
            about = collection.about()
            if kind is not None and about.index != plan:
                raise UserError(
                    f"the collection {collection.name} has the index {about.index}, not {plan}: delete it first with search.drop"
                )
            done = synchronize(collection, one, shard, options.quiet)
            complete = "" if collection.complete(one.fingerprint, one.rows) else "; not complete yet"
            yield (
                f"{collection.name}: {len(one.held):,} videos, {one.rows:,} vectors of {one.dimension} numbers, index {about.index}; added "
                f"{len(done.missing):,}, replaced {len(done.stale):,}, removed {len(done.gone):,}{complete}"
            )


def _opened(milvus: Milvus, options: FillOptions, cache: FeatureCache, wanted: Wanted, plan: IndexPlan, make: bool) -> Collection:
    if not make:
        collection = require_collection(milvus, options, wanted.vectors)
    else:
        collection = Collection(milvus, collection_name(options, wanted.vectors))
        if not collection.exists():
            about = About(cache.digest, cache.format, wanted.vectors, options.max_frames, wanted.dimension, plan)
            try:
                collection.create(about)
            except UserError:
                # Another process of --shard may have been faster.
                if not collection.exists():
                    raise
    require_same_cache(collection, cache.digest, wanted.vectors, options.max_frames, cache.path)
    collection.load()
    return collection


def status(options: FillOptions, cache: FeatureCache, video_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each collection holds, and what it lacks of the cache."""
    with connected(options) as milvus:
        for vectors in options.kinds():
            collection = require_collection(milvus, options, vectors)
            about = collection.about()
            collection.load()
            found: dict[str, Any] = {
                "engine": "milvus",
                "uri": milvus.name,
                "collection": collection.name,
                "vectors": vectors,
                "dimension": about.dimension,
                "index": str(about.index),
                "rows": collection.count(),
                "rows_without_index": collection.unindexed(),
                "cache": about.cache,
                "same_cache": about.cache == cache.digest,
                "max_frames": about.max_frames,
            }
            if found["same_cache"] and about.max_frames == options.max_frames:
                ledger = collection.ledger()
                wanted = Wanted.of_cache(cache, video_ids, vectors, options.max_frames)
                difference = Difference.of(ledger, wanted)
                found |= {"videos": len(ledger), "missing": len(difference.missing), "outdated": len(difference.stale)}
                found |= {"gone": len(difference.gone), "complete": collection.complete(wanted.fingerprint, wanted.rows)}
            yield found


def drop(options: StoreOptions) -> Iterator[str]:
    """Delete the collections, and say which. Raises UserError, before anything is deleted, if one is not there or is not ours."""
    vectors: tuple[Vectors, ...] = options.kinds()
    with connected(options) as milvus:
        collections = [require_collection(milvus, options, one) for one in vectors]
        for collection in collections:
            collection.about()
        for collection in collections:
            collection.drop()
            yield f"deleted the collection {collection.name} of {milvus.name}"
