"""Says what an index of candidates holds and lacks: `python -m search.status --cache DIR --engine milvus --uri URI`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from data.cli.command import run_command
from data.cli.command_line import About
from search.index.commands import FillOptions, check_fill, gallery_of


@dataclass(frozen=True, kw_only=True)
class StatusOptions(FillOptions):
    """Compare an index with a cache."""

    json: Annotated[bool, About.OUTPUT] = False
    """Print one line of JSON for each kind of vectors."""


def main(options: StatusOptions) -> None:
    """Print what the index holds. Raises UserError if there is none, or if Milvus does not answer."""
    check_fill(options)
    from data.cache import FeatureCache
    from search.index import faiss_store
    from search.index.milvus import store

    cache = FeatureCache(options.cache)
    videos = gallery_of(options, cache)
    found = faiss_store.status(options, cache, videos) if options.engine == "faiss" else store.status(options, cache, videos)
    for facts in found:
        print(json.dumps(facts) if options.json else _as_text(facts), flush=True)


def _as_text(facts: Mapping[str, Any]) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{name.replace('_', ' '):{width}}  {_shown(value)}" for name, value in facts.items())


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    run_command(
        StatusOptions,
        main,
        prog="python -m search.status",
        examples=("--cache runs/cache --index runs/index", "--cache runs/cache --engine milvus --uri http://localhost:19530 --json"),
    )
