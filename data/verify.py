"""`python -m data.verify CACHE`: check every byte of a cache against its checksums."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data.base.errors import UserError, first_of
from data.base.quoting import visible
from data.base.sealed import is_sound
from data.cli.command import SOME_FAILED, run_command
from data.cli.command_line import About
from data.store.address import require_folder


@dataclass(frozen=True)
class VerifyOptions:
    """Check every byte of a cache against its checksums, and list what has to be extracted again. Exits with status 3 if files are
    damaged."""

    cache: Annotated[Path, tyro.conf.Positional]
    """Folder of the cache, or a merged file."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the result as one JSON line on standard output."""


def verify(options: VerifyOptions) -> int:
    """Print what is damaged and return the exit status. Raises UserError if there is no cache."""
    from data.cache.layout import CLIP_FILE  # numpy and pandas load late, so that --help answers at once
    from data.cache.listings import Listings
    from data.cache.tables import is_intact

    path = options.cache
    require_folder(path, "CACHE")
    if not path.is_file() and not (path / CLIP_FILE).exists() and not list(path.glob("videos-*.h5")):
        raise UserError(f"there is no cache at {path}: name the folder that extract wrote, or a merged file")
    files = [path] if path.is_file() else sorted([*path.glob("*.h5"), *(path / name for name in Listings(path).files())])
    damaged = [file for file in files if not (is_intact(file) if file.suffix == ".parquet" else is_sound(file))]
    if path.is_dir() and not (path / CLIP_FILE).exists():
        damaged.append(path / CLIP_FILE)
    videos = sorted(_lost(path, damaged)) if path.is_dir() and damaged else []
    patches = sorted(_without_patches(path, damaged)) if path.is_dir() else []
    if options.json:
        found = {"files": len(files), "damaged": [str(file) for file in damaged]}
        print(json.dumps({**found, "videos_to_extract": videos, "patches_to_extract": patches}))
        return SOME_FAILED if damaged else 0
    lines = [
        [f"damaged: {file}" for file in damaged],
        [f"to extract again: {video_id}" for video_id in videos],
        [f"patch tokens to extract again: {video_id}" for video_id in patches],
    ]
    for listed in lines:
        for line in first_of(listed, "--json lists all"):
            print(visible(line))
    if not damaged:
        print(f"{path}: {len(files)} files are sound")
    elif path.is_file():
        print(f"{path} is damaged: merge it again from the folder that it was merged from")
    else:
        print(f"{len(damaged)} of {len(files)} files are damaged: run extract again with the same options, which repairs them")
    return SOME_FAILED if damaged else 0


def _lost(cache: Path, damaged: list[Path]) -> set[str]:
    """The videos that an intact table lists with a file, and that no intact part holds."""
    from data.cache.index import video_ids_in
    from data.cache.tables import read_parquet

    listed: set[str] = set()
    for table in set(cache.glob("videos-*.parquet")) - set(damaged):
        frame = read_parquet(table)
        listed |= set(frame.loc[frame["file"].notna(), "video_id"])
    for part in set(cache.glob("videos-*.h5")) - set(damaged):
        listed -= set(video_ids_in(part))
    return listed


def _without_patches(cache: Path, damaged: list[Path]) -> set[str]:
    """If a part of patch tokens is damaged: the videos of intact parts whose patch tokens no intact part holds."""
    from data.cache.index import video_ids_in

    def intact(kind: str) -> set[str]:
        return {video_id for part in set(cache.glob(f"{kind}-*.h5")) - set(damaged) for video_id in video_ids_in(part)}

    return intact("videos") - intact("patches") if any(file.name.startswith("patches-") for file in damaged) else set()


if __name__ == "__main__":
    run_command(VerifyOptions, verify, prog="python -m data.verify", status=int, examples=("runs/cache", "--json runs/cache.h5"))
