"""Brings an index of candidates up to date with its cache: `python -m search.add --cache DIR --engine milvus --uri URI`."""

from dataclasses import dataclass

from data.cli.command import run_command
from search.index.commands import FillOptions, check_fill, gallery_of


@dataclass(frozen=True, kw_only=True)
class AddOptions(FillOptions):
    """Add the videos that a cache has gained since its index was built, replace those extracted again, and remove those it has lost."""


def main(options: AddOptions) -> None:
    """Change the index, and print what it holds. Raises UserError if there is none, if it holds another cache, or if Milvus does not
    answer."""
    shard = check_fill(options)
    from data.cache import FeatureCache
    from search.index import faiss_store
    from search.index.milvus import store

    cache = FeatureCache(options.cache)
    videos = gallery_of(options, cache)
    lines = faiss_store.fill(options, cache, videos) if options.engine == "faiss" else store.fill(options, cache, videos, shard)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    run_command(
        AddOptions,
        main,
        prog="python -m search.add",
        examples=("--cache runs/cache --index runs/index", "--cache runs/cache --engine milvus --uri http://localhost:19530"),
    )
