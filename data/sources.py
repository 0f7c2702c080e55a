"""`python -m data.sources CACHE`: print the sources of a cache, or remove one."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data.base.errors import UserError
from data.cli.command import run_command
from data.cli.command_line import About
from data.store.address import require_folder


@dataclass(frozen=True)
class SourcesOptions:
    """Print the sources of a cache: the folders and tables whose videos and captions are used for search, training and evaluation."""

    cache: Annotated[Path, tyro.conf.Positional]
    """Folder of the cache, or a merged file."""
    drop: Annotated[str | None, About.CACHE] = None
    """Remove the source of this name. Its features stay until extract --prune drops what no source lists."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the sources as one JSON line on standard output."""


def print_sources(options: SourcesOptions) -> int:
    """Print the sources and return the exit status. Raises UserError if there is no cache, or no source named --drop."""
    from data.cache import FeatureCache  # numpy and pandas load late, so that --help answers at once

    cache = FeatureCache(options.cache)
    if options.drop is not None:
        require_folder(options.cache, "CACHE")
        if cache.merged:
            raise UserError(f"{options.cache} is a merged cache and cannot change: drop the source from the folder, and merge again")
        names = cache.listings.names()
        if options.drop not in names:
            raise UserError(f"--drop {options.drop}: the cache {options.cache} has no such source; it has: {', '.join(names) or 'none'}")
        try:
            cache.listings.remove(options.drop)
        except OSError as error:
            raise UserError(
                f"{options.cache} cannot be written ({error.strerror}): --drop has to change the cache, so make it writable"
            ) from error
        print(f"{options.cache} no longer lists {options.drop}", file=sys.stderr)
    rows = [
        {
            "name": name,
            "preset": source.preset,
            "origin": source.origin,
            "videos": len(cache.listings.videos(name)),
            "captions": len(cache.listings.captions(name)),
        }
        for name, source in cache.listings.sources().items()
    ]
    if options.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        count = f"{row['videos']:,} videos and {row['captions']:,} captions"
        print(f"{row['name']}: {count}, {row['preset']}, from {row['origin'] or 'an unrecorded place'}")
    return 0


if __name__ == "__main__":
    run_command(
        SourcesOptions, print_sources, prog="python -m data.sources", status=int, examples=("runs/cache", "runs/cache --drop holidays")
    )
