"""`python -m data.merge CACHE OUT.h5`: merge a cache into one file, to copy or share."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data.base.errors import UserError
from data.base.writable import require_writable_file
from data.cli.command import run_command
from data.cli.command_line import About
from data.store.address import require_folder


@dataclass(frozen=True)
class MergeOptions:
    """Merge a cache into one file, which --cache OUT.h5 reads."""

    cache: Annotated[Path, tyro.conf.Positional]
    """Folder of the cache."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file to write; it must not exist."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the result as one JSON line on standard output."""


def merge(options: MergeOptions) -> int:
    """Write the file and return the exit status. Raises UserError if the file exists, or if the cache is missing or damaged."""
    from data.cache import FeatureCache  # numpy and pandas load late, so that --help answers at once

    require_folder(options.cache, "CACHE")
    if options.out.exists():
        raise UserError(f"{options.out} exists already: name a new file, or remove it")
    if not options.out.parent.is_dir():
        raise UserError(f"{options.out.parent} is not a folder: make it, or name a file elsewhere")
    require_writable_file(options.out, "OUT")
    cache = FeatureCache(options.cache)
    cache.merge(options.out)
    counts = {"videos": len(cache.names("videos")), "texts": len(cache.names("texts")), "bytes": options.out.stat().st_size}
    counts["patches"] = sum(map(cache.has_patches, cache.names("patches")))
    if options.json:
        print(json.dumps({"out": str(options.out), **counts}))
    else:
        tokens = f", patch tokens of {counts['patches']:,} videos" if counts["patches"] else ""
        print(f"{options.out}: {counts['videos']:,} videos and {counts['texts']:,} texts{tokens}, {counts['bytes'] / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    run_command(
        MergeOptions,
        merge,
        prog="python -m data.merge",
        status=int,
        examples=("runs/cache runs/cache.h5", "--json /scratch/cache cache.h5"),
    )
