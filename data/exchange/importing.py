"""Import features into a cache: describe, check, match, then read and write part by part.

Shape suffixes: T rows of an entry (frames or tokens), D joint dimension.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data.base.errors import UserError
from data.base.progress import Progress
from data.base.provenance import provenance
from data.base.quoting import path_text, visible
from data.base.writable import require_writable_folder
from data.cache import FeatureCache, TextEntry, VideoEntry, recorded_settings
from data.cache.layout import Kind, all_finite, text_arrays, video_arrays
from data.cache.listings import Listing
from data.cache.prune import drop, unlisted
from data.cache.sources import Source, name_of
from data.datasets import Preset, find_preset, shares_of
from data.exchange.about import IMPORTED, About, read_about, recorded_about
from data.exchange.folder import FolderReader
from data.exchange.items import Item, Reader, require_sound, require_unique, require_width
from data.exchange.matching import Matched, match
from data.exchange.one_file import FORMS, ShardsReader
from data.exchange.options import ImportOptions

PART_BYTES = 2**24
"""Bytes of features in a part. Larger parts need more memory and are slower: their memory is returned to the system each time."""
PART_ENTRIES = 16_384
WRITERS = 2
"""Threads that write parts: while one hashes, the other syncs."""


class Summary(NamedTuple):
    """What an import did: counts of entries written, of those that were there, and of what is missing."""

    videos: int
    texts: int
    videos_there: int
    texts_there: int
    videos_missing: int
    captions_missing: int
    pruned: Mapping[str, int]


def open_reader(path: Path, kind: Kind, option: str) -> Reader:
    """The reader of a folder or file of features. Raises UserError if there is none, or if it holds no features."""
    if path.is_dir():
        shards = sorted(file for file in path.iterdir() if file.suffix.lower() in FORMS and not file.name.startswith("."))
        return ShardsReader(shards, kind) if shards else FolderReader(path, kind)
    if not path.is_file():
        raise UserError(f"{option} {path} does not exist: name a folder of .npy or .npz files, or a file")
    if path.suffix.lower() not in FORMS:
        raise UserError(f"{option} {path}: a file of features ends in {', '.join(FORMS)}; a folder holds .npy or .npz files")
    return FORMS[path.suffix.lower()](path, kind)


def import_features(options: ImportOptions) -> Summary:
    """Import features into a cache. Raises UserError if features, table, JSON or cache do not fit."""
    if options.frames is None and options.texts is None:
        raise UserError("nothing to import: name features of videos with --frames, or of texts with --texts")
    if options.fps is not None and not 0 < options.fps < float("inf"):
        raise UserError(f"--fps {options.fps}: must be more than 0")
    if options.cache.is_file():
        raise UserError(f"--cache {options.cache} is a merged cache and cannot grow: name the folder that it was merged from")
    if not options.dry_run:
        require_writable_folder(options.cache, "--cache")
    recorded = (recorded_settings(options.cache) if options.cache.is_dir() else None) or {}
    if recorded and IMPORTED not in recorded:
        raise UserError(f"--cache {options.cache} holds features of an extraction: import into another --cache")
    about = recorded_about(recorded) if recorded and options.about is None else About()
    about = about if options.about is None else read_about(options.about)
    frames = None if options.frames is None else open_reader(options.frames, "videos", "--frames")
    texts = None if options.texts is None else open_reader(options.texts, "texts", "--texts")
    readers: dict[Kind, Reader] = {kind: found for kind, found in (("videos", frames), ("texts", texts)) if found is not None}  # type: ignore[misc]
    for reader in readers.values():
        require_unique(reader.items)
    shares = None if options.split_by_hash is None else shares_of(options.split_by_hash)
    if shares is not None and options.table is None:
        raise UserError("--split-by-hash divides the videos of a table: add --table")
    matched = match(
        frames.items if frames else (),
        texts.items if texts else (),
        options.table,
        options.frames,
        shares,
        (frames is not None, texts is not None),
    )
    items: dict[Kind, dict[str, Item]] = {"videos": matched.videos, "texts": matched.texts}
    dimension, dtype = _shape_of(readers, items, recorded, options.dtype)
    for entries in items.values():
        for item in entries.values():
            if item.shape:
                require_width(item.shape[-1], dimension, item.place)
    for text, item in matched.texts.items():
        if len(item.shape) == 2:
            _require_length(item.shape[0], about, text, item.place)
    settings = about.settings(dimension, dtype)
    cache: FeatureCache | None = None
    if recorded:
        cache = FeatureCache(options.cache)
        cache.require(settings)
    if not options.allow_missing:
        matched.require_complete(*((cache.names(kind) for kind in items) if cache else ((), ())))
    _say(options, about, readers, matched, dimension, dtype)
    if options.dry_run:
        todo = _todo(items, cache, options.replace)
        return _summary(matched, items, todo, {})
    cache = FeatureCache.create(
        options.cache, settings, about.parts(), provenance(options), on_damaged=_say_damaged, extraction=about.extraction()
    )
    todo = _todo(items, cache, options.replace)
    own, listing = _listing(options, matched, cache)
    cache.listings.begin(own, listing)
    for kind, reader in readers.items():
        _write(cache, kind, reader, todo[kind], about, options)
    cache.listings.complete(own, listing)
    pruned: dict[str, int] = {}
    if options.prune:
        cache = FeatureCache(options.cache)
        names = unlisted(cache, *cache.listings.all_listed())
        freed = drop(cache, names, sorted(options.cache.glob("*-*.h5")))
        pruned = {**{kind: len(dropped) for kind, dropped in names.items()}, "bytes": freed}
    return _summary(matched, items, todo, pruned)


def _summary(
    matched: Matched, items: Mapping[Kind, Mapping[str, Item]], todo: Mapping[Kind, Mapping[str, Item]], pruned: Mapping[str, int]
) -> Summary:
    done = {kind: len(todo[kind]) for kind in items}
    there = {kind: len(items[kind]) - done[kind] for kind in items}
    missing = len(matched.without_frames), len(matched.without_texts)
    return Summary(done["videos"], done["texts"], there["videos"], there["texts"], *missing, pruned)


def _shape_of(
    readers: Mapping[Kind, Reader], items: Mapping[Kind, Mapping[str, Item]], recorded: Mapping[str, Any], asked: str | None
) -> tuple[int, str]:
    """D and the dtype of the cache: those of an existing one, else of the features."""
    every = [item for entries in items.values() for item in entries.values()]
    if not every:
        raise UserError("none of the features belongs to a video or caption of --table: compare its names with those of the files")
    dimension = recorded.get("dimension")
    if dimension is None:
        kind = next(kind for kind in readers if items[kind])
        first = next(iter(items[kind].values()))
        dimension = first.shape[-1] if first.shape else next(readers[kind].read([first])).rows_TD.shape[1]
    given = asked or recorded.get("dtype") or ("float16" if {item.dtype.name for item in every} == {"float16"} else "float32")
    return int(dimension), str(given)


def _require_length(tokens: int, about: About, text: str, place: str) -> None:
    if tokens > about.context_length:
        raise UserError(
            f"{place}: {tokens} tokens, more than the {about.context_length} of the cache: give a larger context_length in --about, "
            "for a new --cache"
        )


def _todo(items: Mapping[Kind, Mapping[str, Item]], cache: FeatureCache | None, replace: bool) -> dict[Kind, dict[str, Item]]:
    """The entries that the cache lacks, and videos whose file has changed. A cached text stays: the cache does not know its file."""
    if cache is None or replace:
        return {kind: dict(entries) for kind, entries in items.items()}
    return {
        "videos": {name: item for name, item in items["videos"].items() if not cache.is_current(name, item.size, item.mtime_ns)},
        "texts": {text: item for text, item in items["texts"].items() if ("texts", text) not in cache},
    }


def _say(options: ImportOptions, about: About, readers: Mapping[Kind, Reader], matched: Matched, dimension: int, dtype: str) -> None:
    if options.quiet:
        return
    counts = f"{len(matched.videos):,} videos and {len(matched.texts):,} texts"
    lines = [f"{counts}, {dimension} wide, kept as {dtype}", about.limits(), *matched.dataset.notes, *matched.notes()]
    other = [f"{count:,} {suffix}" for reader in readers.values() for suffix, count in reader.left_alone().items()]
    lines += [f"files left alone: {', '.join(other)}"] if other else []
    missing = [(len(matched.without_frames), "videos"), (len(matched.without_texts), "captions")]
    lines += [f"without features: {count:,} {what} of the table" for count, what in missing if count]
    for line in lines:
        print(visible(line), file=sys.stderr)


def _say_damaged(path: Path) -> None:
    print(f"{path} is damaged: its contents are imported again", file=sys.stderr)


def _listing(options: ImportOptions, matched: Matched, cache: FeatureCache) -> tuple[str, Listing]:
    """The name and the listing of this source. Raises UserError if the name belongs to another source."""
    origin = options.table or options.frames or options.texts
    assert origin is not None
    preset: Preset = find_preset("table", None, options.table)
    folder = options.frames
    source = Source(preset.name, str(origin.absolute()), None if folder is None else str(folder.absolute()), matched.dataset.division)
    ids = {*matched.dataset.videos["video_id"]}

    def overlap(name: str) -> float:
        before = {*cache.listings.videos(name)["video_id"]}
        return len(before & ids) / max(len(before), 1)

    own = name_of(source, options.name, True, cache.listings.sources(cache.listings.damaged()), overlap)
    listed = matched.dataset.videos
    files = [_file_of(matched.videos.get(video_id), options.frames) for video_id in listed["video_id"]]
    before = cache.listings
    if own in before.names() and own not in before.damaged():
        # A later import may bring only the texts, or some of the videos.
        known = before.videos(own).drop_duplicates("video_id").set_index("video_id")["file"]
        files = [file or known.get(video_id) for file, video_id in zip(files, listed["video_id"], strict=True)]
    return own, Listing(
        source, matched.dataset.captions, listed.assign(file=pd.Series(files, index=listed.index, dtype=object), failed=False)
    )


def _file_of(item: Item | None, frames: Path | None) -> str | None:
    """The file of features of a video, as the listing names it: its path under --frames, or the name of that file."""
    if item is None or frames is None:
        return None
    return path_text(item.path.name if item.path == frames else item.path.relative_to(frames))


class _Parts:
    """Writes parts in threads. At most WRITERS parts wait, so that memory stays flat."""

    def __init__(self, cache: FeatureCache, kind: Kind, pool: ThreadPoolExecutor) -> None:
        self._cache, self._kind, self._pool = cache, kind, pool
        self._pending: deque[Future[Path]] = deque()

    def add(self, entries: Sequence[VideoEntry] | Sequence[TextEntry]) -> None:
        """Write these entries. Raises UserError if this or an earlier part cannot be written."""
        if len(self._pending) >= WRITERS:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._store, entries))

    def finish(self) -> None:
        """Wait for all parts."""
        while self._pending:
            self._pending.popleft().result()

    def _store(self, entries: Sequence[Any]) -> Path:
        make: Callable[[Sequence[Any], str], dict[str, Any]] = video_arrays if self._kind == "videos" else text_arrays
        arrays = make(entries, self._cache.settings["dtype"])
        names = arrays["video_id" if self._kind == "videos" else "text"]
        return self._cache.store(self._kind, arrays, json.dumps([names, time.time_ns()]).encode())


def _write(cache: FeatureCache, kind: Kind, reader: Reader, todo: Mapping[str, Item], about: About, options: ImportOptions) -> None:
    """Read these entries and write them in parts. An interrupted import keeps the parts that are written."""
    order = list(todo.items())
    # Parquet is read in its own order; the table may list videos in another.
    places = {id(item): place for place, item in enumerate(reader.items)}
    order.sort(key=lambda pair: places[id(pair[1])])
    entries: list[Any] = []
    held = 0
    with ThreadPoolExecutor(WRITERS) as pool, Progress(kind, len(order), kind, options.quiet) as progress:
        parts = _Parts(cache, kind, pool)
        try:
            for entry, size in _entries(cache, kind, reader, order, about, options.fps):
                entries.append(entry)
                held += size
                if held >= PART_BYTES or len(entries) >= PART_ENTRIES:
                    parts.add(entries)
                    progress.update(len(entries))
                    entries, held = [], 0
        finally:
            # Also after an error, so that what was read is kept.
            if entries:
                parts.add(entries)
                progress.update(len(entries))
            parts.finish()


def _entries(
    cache: FeatureCache, kind: Kind, reader: Reader, order: Sequence[tuple[str, Item]], about: About, fps: float | None
) -> Iterator[tuple[Any, int]]:
    dtype = cache.settings["dtype"]
    untimed = borrowed = 0
    for (name, item), loaded in zip(order, reader.read([item for _, item in order]), strict=True):
        require_sound(loaded, kind, cache.dimension, item.place)
        rows_TD = _as(loaded.rows_TD, dtype, item.place)
        if kind == "videos":
            untimed += loaded.extra is None
            seconds_T = np.arange(len(rows_TD)) / (fps or 1.0) if loaded.extra is None else loaded.extra
            yield VideoEntry(name, rows_TD, seconds_T, item.size, item.mtime_ns, decoder=""), rows_TD.nbytes
            continue
        _require_length(len(rows_TD), about, name, item.place)
        borrowed += loaded.extra is None
        sentence_D = rows_TD[-1] if loaded.extra is None else _as(loaded.extra, dtype, item.place)
        yield TextEntry(name, rows_TD, sentence_D), rows_TD.nbytes + sentence_D.nbytes
    if untimed and fps is None:
        print(f"{untimed:,} videos bring no times: their frames count as one per second (--fps RATE sets another)", file=sys.stderr)
    if borrowed:
        print(f"{borrowed:,} texts bring no sentence feature: that of their last token is used, as in CLIP", file=sys.stderr)


def _as(features: Any, dtype: str, place: str) -> Any:
    """The features in the dtype of the cache. Raises UserError if one is too large for it."""
    if features.dtype == dtype:
        return features
    with np.errstate(over="ignore"):
        made = features.astype(dtype)
    if not all_finite(made):
        raise UserError(f"{place}: a feature is too large for {dtype}: import into another --cache with --dtype float32")
    return made
