"""Fills an index of candidates from a cache: `python -m search.build --cache DIR --engine milvus --uri URI`."""

from dataclasses import dataclass
from typing import Annotated

from data.base.errors import UserError
from data.cli.command import run_command
from data.cli.command_line import About
from search.index.commands import FillOptions, KindName, check_fill, gallery_of


@dataclass(frozen=True, kw_only=True)
class BuildOptions(FillOptions):
    """Make an index of a cache's videos and fill it, or go on where this was stopped."""

    index_kind: Annotated[KindName | None, About.CANDIDATES] = None
    """With milvus: kind of index. Default: FLAT (exhaustive) up to 32,768 vectors, IVF_SQ8 (inverted lists, a byte for a number) up to
    16,777,216, beyond that IVF_PQ (64 bytes for a vector)."""
    index_params: Annotated[str | None, About.CANDIDATES] = None
    """With milvus: parameters of the index, such as nlist=1024, or M=32,efConstruction=400. Default: they follow the size."""


def main(options: BuildOptions) -> None:
    """Fill the index, and print what it holds. Raises UserError if it holds another cache, or if Milvus does not answer."""
    shard = check_fill(options)
    if options.engine == "faiss" and (options.index_kind is not None or options.index_params is not None):
        raise UserError("--index-kind and --index-params are for --engine milvus: leave them out")
    if options.index_params is not None and options.index_kind is None:
        raise UserError(f"--index-params {options.index_params} needs --index-kind, which decides what parameters there are: add it")
    from data.cache import FeatureCache
    from search.index import faiss_store
    from search.index.milvus import store

    cache = FeatureCache(options.cache)
    videos = gallery_of(options, cache)
    if options.engine == "faiss":
        lines = faiss_store.fill(options, cache, videos, make=True)
    else:
        lines = store.fill(options, cache, videos, shard, options.index_kind, options.index_params, make=True)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    run_command(
        BuildOptions,
        main,
        prog="python -m search.build",
        examples=("--cache runs/cache --index runs/index", "--cache runs/cache --engine milvus --uri http://localhost:19530"),
    )
