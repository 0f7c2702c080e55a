"""The folders that a server watches: the sources of its cache that are plain folders of videos, and what is in them.

The folders are looked at every few seconds. Notifications of the system would come sooner, but file systems on a network send none for
what other machines write, and a look at ten thousand files takes a fraction of a second.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.base.errors import UserError
from data.base.writable import require_writable_folder
from data.cache import FeatureCache
from data.cache.sources import Source
from data.cache.tables import options_file
from data.cli.options_file import read_options
from data.datasets.adapters.table import FOLDER
from data.datasets.containers import is_video_name
from data.datasets.folders import VideoFolder
from data.store.address import require_folder
from extract.options import ExtractOptions
from search.serve.options import ServeOptions

FOLLOWED = ("thumbnails", "store_pixels", "tokens", "segment", "allow_partial", "follow_links", "time_limit", "decoder")
"""Options of an extraction that the next one of the same source repeats. The others follow the cache."""

Seen = dict[Path, tuple[int, int]]
"""Size and time of change, in nanoseconds, of each video file in a folder."""


@dataclass(frozen=True)
class WatchedFolder:
    """A folder of videos, and how to extract it again."""

    extraction: ExtractOptions

    @property
    def name(self) -> str:
        """The name of the source."""
        assert self.extraction.name is not None
        return self.extraction.name

    @property
    def path(self) -> Path:
        return self.extraction.videos


def find_folders(options: ServeOptions) -> list[WatchedFolder]:
    """The folders to watch. Raises UserError if the cache cannot grow, or if none of its sources is a plain folder that is there."""
    if not 0 < options.watch_every < float("inf"):
        raise UserError(f"--watch-every {options.watch_every:g} must be a number of seconds above 0")
    if options.all:
        raise UserError("--all searches what is gone as well, and --watch drops it: leave one of them out")
    if options.engine == "milvus":
        raise UserError("--watch brings an index of faiss up to date, not a collection of --engine milvus: leave one of the two out")
    require_folder(options.cache, "--watch: --cache")
    if options.cache.is_file():
        raise UserError(f"--watch adds to the cache, and {options.cache} is a merged one: name the folder that it was merged from")
    cache = FeatureCache(options.cache)
    if cache.imported:
        raise UserError(f"--watch extracts new videos, and {options.cache} holds imported features: name a cache that extract made")
    require_writable_folder(options.cache, "--watch: --cache")
    sources = cache.listings.sources()
    plain = {name: source for name, source in sources.items() if source.preset == FOLDER.name and options.name in (None, name)}
    if not plain:
        kinds = ", ".join(f"{name} ({source.preset})" for name, source in sources.items()) or "no source"
        raise UserError(f"--watch is for plain folders of videos, and {options.cache} has {kinds}: extract a folder without annotations")
    if options.videos is not None and len(plain) > 1:
        raise UserError(f"--watch --videos names one folder, and {options.cache} has several: choose one with --name {'|'.join(plain)}")
    return [_watched(options, name, source) for name, source in plain.items()]


def _watched(options: ServeOptions, name: str, source: Source) -> WatchedFolder:
    folder = Path(source.folder or "") if options.videos is None else options.videos.absolute()
    if source.folder is None and options.videos is None:
        raise UserError(f"{options.cache} does not say where the videos of {name} are: name their folder with --videos")
    if not folder.is_dir():
        raise UserError(f"--watch: {folder}, the folder of {name}, is not there: name its new place with --videos")
    recorded = options.cache / options_file(name)
    values: dict[str, Any] = read_options(recorded, ExtractOptions, "python -m extract") if recorded.is_file() else {}
    again = ExtractOptions(folder, options.cache, **{option: values[option] for option in FOLLOWED if option in values})
    clip = replace(again, model=options.model, pretrained=options.pretrained, device=options.device)
    return WatchedFolder(replace(clip, name=name, workers=1, quiet=True))


def look(folder: Path) -> Seen:
    """The video files in a folder as they are now. Raises UserError if it cannot be read."""
    if not folder.is_dir():
        raise UserError(f"the folder {folder} is gone: bring it back, or start again with --videos")
    found: Seen = {}
    for path in VideoFolder(folder).paths:
        # A file may be removed meanwhile.
        with suppress(OSError):
            if is_video_name(path):
                stat = path.stat()
                found[path] = (stat.st_size, stat.st_mtime_ns)
    return found
