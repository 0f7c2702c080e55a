"""Deletes an index of candidates: `python -m search.drop --engine milvus --uri URI`."""

from dataclasses import dataclass

from data.cli.command import run_command
from search.index.commands import StoreOptions, check_store


@dataclass(frozen=True, kw_only=True)
class DropOptions(StoreOptions):
    """Delete an index. The cache stays as it is, and search.build makes the index again."""


def main(options: DropOptions) -> None:
    """Delete, and print what was deleted. Raises UserError, before anything is deleted, if there is no such index."""
    check_store(options)
    from search.index import faiss_store
    from search.index.milvus import store

    for line in faiss_store.drop(options) if options.engine == "faiss" else store.drop(options):
        print(line, flush=True)


if __name__ == "__main__":
    run_command(
        DropOptions,
        main,
        prog="python -m search.drop",
        examples=("--index runs/index", "--engine milvus --uri http://localhost:19530 --collection videos --candidates-from both"),
    )
