"""Fills, describes and deletes indexes of FAISS in folders, for the commands of `search`."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from data.base.errors import UserError
from data.cache import FeatureCache
from search.index.candidates import add_videos, candidate_index, index_fingerprint, require_index, video_keys
from search.index.commands import FillOptions, StoreOptions
from search.index.saved import INDEX_FILE, delete_index, load_index, read_contents, save_index, updated_index


def fill(options: FillOptions, cache: FeatureCache, video_ids: Sequence[str], make: bool = False) -> Iterator[str]:
    """Bring the indexes up to date with the cache, and say of each what was done. `make`: make indexes that do not exist."""
    assert options.index is not None
    if make:
        require_index(options.index, options.kinds())
    videos = cache.videos(sorted(video_ids), 0, options.max_frames)
    for vectors in options.kinds():
        folder = options.index / vectors
        fingerprint, keys = index_fingerprint(cache, videos, vectors), video_keys(cache, videos)
        if not (folder / INDEX_FILE).exists():
            if not make:
                raise UserError(f"there is no index in {folder}: make it with python -m search.build")
            candidate_index(cache, videos, vectors, folder, quiet=options.quiet)
            yield f"{folder}: {len(keys):,} videos; added {len(keys):,}"
            continue
        if read_contents(folder).fingerprint == fingerprint:
            load_index(folder, fingerprint)  # says if it is damaged
            yield f"{folder}: {len(keys):,} videos; up to date"
            continue
        index, counts = updated_index(folder, keys, partial(add_videos, videos=videos, vectors=vectors, quiet=options.quiet))
        save_index(index, folder, fingerprint, keys)
        yield (
            f"{folder}: {len(keys):,} videos; added {counts['added']:,}, removed {counts['removed']:,}, "
            f"indexed again {counts['again']:,} in shards that changed"
        )


def status(options: FillOptions, cache: FeatureCache, video_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each index holds, and what it lacks of the cache."""
    assert options.index is not None
    videos = cache.videos(sorted(video_ids), 0, options.max_frames)
    keys = set(video_keys(cache, videos))
    for vectors in options.kinds():
        folder = options.index / vectors
        if not (folder / INDEX_FILE).exists():
            raise UserError(f"there is no index in {folder}: make it with python -m search.build")
        contents = read_contents(folder)
        there = {key for of_shard in contents.keys for key in of_shard}
        yield {
            "engine": "faiss",
            "folder": str(folder),
            "vectors": vectors,
            "dimension": contents.dimension,
            "shards": len(contents.shards),
            "bytes": sum(file.stat().st_size for file in folder.iterdir()),
            "videos": contents.videos,
            "missing": len(keys - there),
            "gone": len(there - keys),
            "complete": contents.fingerprint == index_fingerprint(cache, videos, vectors),
        }


def drop(options: StoreOptions) -> Iterator[str]:
    """Delete the indexes, and say which. Raises UserError, before anything is deleted, if one is not there."""
    assert options.index is not None
    folders = [options.index / vectors for vectors in options.kinds()]
    for folder in folders:
        if not (folder / INDEX_FILE).exists():
            raise UserError(f"there is no index in {folder}: nothing to delete")
    for folder in folders:
        delete_index(folder)
        yield f"deleted the index {folder}"
