"""Opens a collection of Milvus to search a gallery in it."""

from contextlib import ExitStack
from typing import NamedTuple

from data.base.errors import UserError
from data.base.progress import say
from data.cache import FeatureCache
from data.cache.features import VideoFeatures
from search.index.candidates import Vectors
from search.index.milvus.client import Milvus
from search.index.milvus.collection import Collection
from search.index.milvus.engine import MilvusIndex
from search.index.milvus.rows import Wanted
from search.index.milvus.sync import Difference, require_same_cache
from search.index.options import EngineOptions


def collection_name(options: EngineOptions, vectors: Vectors) -> str:
    """The name of the collection of these vectors."""
    return f"{options.collection}_{vectors}"


def require_collection(milvus: Milvus, options: EngineOptions, vectors: Vectors) -> Collection:
    """The collection of these vectors. Raises UserError if there is none."""
    collection = Collection(milvus, collection_name(options, vectors))
    if not collection.exists():
        raise UserError(f"Milvus at {milvus.name} has no collection {collection.name}: fill it with python -m search.build")
    return collection


class Found(NamedTuple):
    """A collection that holds the right vectors of the right cache, loaded, with the parameters of its queries."""

    collection: Collection
    query: dict[str, int]


def find_collection(
    options: EngineOptions, search_params: str | None, cache: FeatureCache, vectors: Vectors, max_frames: int | None
) -> Found:
    """The collection to search, before anything else is loaded.

    Raises UserError if Milvus does not answer, if there is no such collection, or if it holds another cache.
    """
    with ExitStack() as stack:
        milvus = Milvus(options)
        stack.callback(milvus.close)
        collection = require_collection(milvus, options, vectors)
        require_same_cache(collection, cache.digest, vectors, max_frames, cache.path)
        query = collection.about().index.query(search_params)
        collection.load()
        stack.pop_all()  # it stays open for the queries
    return Found(collection, query)


def open_collection(found: Found, cache: FeatureCache, videos: VideoFeatures, vectors: Vectors, quiet: bool) -> MilvusIndex:
    """The engine that finds these videos, numbered as they are here. Says how many of them the collection lacks, if any.

    Raises UserError if it lacks all of them.
    """
    collection, wanted = found.collection, Wanted(cache, videos, vectors)
    if not collection.complete(wanted.fingerprint, wanted.rows):
        difference = Difference.of(collection.ledger(), wanted)
        missing, stale = len(difference.missing), len(difference.stale)
        if missing == len(wanted.held):
            raise UserError(
                f"the collection {collection.name} holds none of these {len(videos.ids):,} videos: fill it with python -m search.build"
            )
        if (missing or stale) and not quiet:
            say(
                f"note: of {len(videos.ids):,} videos, the collection {collection.name} lacks {missing:,} and has {stale:,} as they were "
                "before: bring it up to date with python -m search.add"
            )
    return MilvusIndex(collection, videos.ids, found.query)
