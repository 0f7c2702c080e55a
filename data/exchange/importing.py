"""Import features into a cache: describe, check, match, then read and write part by part.

Shape suffixes: T rows of an entry (frames or tokens), R rows of several, M patch tokens of a frame, D joint dimension.
"""

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.progress import Progress
from data.base.provenance import provenance
from data.base.quoting import path_text, visible
from data.base.writable import require_writable_folder
from data.cache import FeatureCache, recorded_settings
from data.cache.layout import CLIP_FILE, Kind, all_finite, bare_patch_arrays, bare_video_arrays, offsets_of
from data.cache.listings import Listing
from data.cache.prune import drop, unlisted
from data.cache.sources import Source, name_of
from data.datasets import Preset, find_preset, shares_of
from data.exchange.about import IMPORTED, About, read_about, recorded_about
from data.exchange.folder import SUFFIXES, FolderReader
from data.exchange.items import NOUN, Block, Item, Reader, require_frames, require_patches, require_sound, require_unique, require_width
from data.exchange.matching import Matched, match
from data.exchange.one_file import FORMS, ShardsReader
from data.exchange.options import ImportOptions
from data.store.address import require_folder

WRITERS = 3
"""Threads that write parts: while one hashes, the other syncs."""


class Summary(NamedTuple):
    """What an import did: counts of entries written, of those that were there, and of what is missing."""

    videos: int
    texts: int
    videos_there: int
    texts_there: int
    videos_missing: int
    captions_missing: int
    patches: int
    patches_there: int
    patches_missing: int
    pruned: Mapping[str, int]


def open_reader(path: Path, kind: Kind, option: str) -> Reader:
    """The reader of a folder or file of features. Raises UserError if there is none, or if it holds no features."""
    if path.is_dir():
        if (path / CLIP_FILE).is_file():
            raise UserError(f"{option} {path} is a feature cache: export it with python -m data.export_features, and import those files")
        shards, array = _files_below(path)
        if shards and array is not None:
            raise UserError(f"{option} {path} holds {shards[0].name} and {array}: name a folder of files of one form")
        return ShardsReader(shards, kind) if shards else FolderReader(path, kind)
    if not path.is_file():
        raise UserError(f"{option} {path} does not exist: name a folder of .npy or .npz files, or a file")
    if path.suffix.lower() not in FORMS:
        raise UserError(f"{option} {path}: a file of features ends in {', '.join(FORMS)}; a folder holds .npy or .npz files")
    return FORMS[path.suffix.lower()](path, kind)


def _files_below(folder: Path) -> tuple[list[Path], str | None]:
    """The files under a folder that hold many entries, sorted, and the name of a `.npy` or `.npz` file, if there is one."""
    shards, array = [], None
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in FORMS and not name.startswith("."):
                shards.append(Path(parent, name))
            elif suffix in SUFFIXES and not name.startswith("."):
                array = name
    return sorted(shards), array


def import_features(options: ImportOptions) -> Summary:
    """Import features into a cache. Raises UserError if features, table, JSON or cache do not fit."""
    _check(options)
    recorded = (recorded_settings(options.cache) if options.cache.is_dir() else None) or {}
    if recorded and IMPORTED not in recorded:
        made = "holds features of an extraction" if "fps" in recorded else "was written from Python"
        raise UserError(
            f"--cache {options.cache} {made}: import into another --cache, and what data.export_features writes of this one too"
        )
    about = recorded_about(recorded) if recorded and options.about is None else About()
    about = about if options.about is None else read_about(options.about)
    readers: dict[Kind, Reader] = {}
    if options.frames is not None:
        readers["videos"] = open_reader(options.frames, "videos", "--frames")
    if options.texts is not None:
        readers["texts"] = open_reader(options.texts, "texts", "--texts")
    if options.patches is not None:
        readers["patches"] = open_reader(options.patches, "patches", "--patches")
    for reader in readers.values():
        require_unique(reader.items)
    shares = None if options.split_by_hash is None else shares_of(options.split_by_hash)
    matched = match({kind: reader.items for kind, reader in readers.items()}, options.table, options.frames, shares)
    items: dict[Kind, dict[str, Item]] = {"videos": matched.videos, "texts": matched.texts, "patches": matched.patches}
    matched.require_some({kind: reader.items for kind, reader in readers.items()})
    dimension, dtype = _shape_of(readers, items, recorded, options.dtype)
    for entries in items.values():
        for item in entries.values():
            if item.shape:
                require_width(item.shape[-1], dimension, item)
    for item in matched.texts.values():
        if item.tokens:
            _require_length(item.tokens, about, item)
    settings = about.settings(dimension, dtype)
    cache = None if not recorded else _open(options, about, settings)
    todo = _todo(items, cache, options.replace)
    if not options.allow_missing:
        matched.require_complete(*((cache.names("videos"), cache.names("texts")) if cache else ((), ())))
        matched.require_patches(name for name in matched.without_patches if _has_patches(cache, name, matched.videos[name]))
    _require_patches(options, matched, cache, todo)
    _say(options, about, readers, matched, dimension, dtype)
    if options.dry_run:
        return _summary(matched, items, todo, {})
    cache = cache or _open(options, about, settings)
    own, listing = _listing(options, matched, cache)
    with ThreadPoolExecutor(1) as pool:
        # The listing protects the parts from being pruned, so it comes first; reading need not wait for it.
        begun = pool.submit(cache.listings.begin, own, listing)
        for kind, reader in readers.items():
            if kind == "patches":
                # With the frames that were written just now.
                begun.result()
                cache = FeatureCache(options.cache)
            _write(cache, kind, reader, todo[kind], about, options, begun)
        begun.result()
    cache.listings.complete(own, listing)
    pruned: dict[str, int] = {}
    if options.prune:
        cache = FeatureCache(options.cache)
        names = unlisted(cache, *cache.listings.all_listed())
        freed = drop(cache, names, sorted(options.cache.glob("*-*.h5")))
        pruned = {**{kind: len(dropped) for kind, dropped in names.items()}, "bytes": freed}
    return _summary(matched, items, todo, pruned)


def _open(options: ImportOptions, about: About, settings: dict[str, Any]) -> FeatureCache:
    """Create or repair the cache; a dry run only opens it. Raises UserError if it was made with other settings."""
    if options.dry_run:
        cache = FeatureCache(options.cache)
        cache.require(settings)
        return cache
    made_by = about.extraction()
    return FeatureCache.create(options.cache, settings, about.parts(), provenance(options), on_damaged=_say_damaged, extraction=made_by)


def _check(options: ImportOptions) -> None:
    """Raise UserError for options that are wrong for any features."""
    require_folder(options.cache, "--cache")
    if options.patches is not None and options.frames is None:
        raise UserError("--patches names patch tokens of frames: add --frames; those that the cache has already are not read again")
    if options.frames is None and options.texts is None:
        raise UserError("nothing to import: name features of videos with --frames, or of texts with --texts")
    if options.fps is not None and not 0 < options.fps < float("inf"):
        raise UserError(f"--fps {options.fps}: must be more than 0")
    if options.split_by_hash is not None and options.table is None:
        raise UserError("--split-by-hash divides the videos of a table: add --table")
    if options.cache.is_file():
        raise UserError(f"--cache {options.cache} is a merged cache and cannot grow: name the folder that it was merged from")
    if not options.dry_run:
        require_writable_folder(options.cache, "--cache")


def _summary(
    matched: Matched, items: Mapping[Kind, Mapping[str, Item]], todo: Mapping[Kind, Mapping[str, Item]], pruned: Mapping[str, int]
) -> Summary:
    done = {kind: len(todo[kind]) for kind in items}
    there = {kind: len(items[kind]) - done[kind] for kind in items}
    missing = len(matched.without_frames), len(matched.without_texts)
    patches = done["patches"], there["patches"], len(matched.without_patches)
    return Summary(done["videos"], done["texts"], there["videos"], there["texts"], *missing, *patches, pruned)


def _shape_of(
    readers: Mapping[Kind, Reader], items: Mapping[Kind, Mapping[str, Item]], recorded: Mapping[str, Any], asked: str | None
) -> tuple[int, str]:
    """D and the dtype of the cache: those of an existing one, else of the features."""
    every = [item for entries in items.values() for item in entries.values()]
    dimension = recorded.get("dimension")
    if dimension is None:
        kind = next(kind for kind in readers if items[kind])
        first = next(iter(items[kind].values()))
        dimension = first.shape[-1] if first.shape else next(readers[kind].read([first])).rows_RD.shape[-1]
    given = asked or recorded.get("dtype") or ("float16" if {*map(str, {item.dtype for item in every})} == {"float16"} else "float32")
    return int(dimension), str(given)


def _require_length(tokens: int, about: About, item: Item) -> None:
    if tokens > about.context_length:
        raise UserError(
            f"{item.place}: {tokens} tokens, more than the {about.context_length} of the cache: give a larger context_length in --about, "
            "for a new --cache"
        )


def _todo(items: Mapping[Kind, Mapping[str, Item]], cache: FeatureCache | None, replace: bool) -> dict[Kind, dict[str, Item]]:
    """The entries that the cache lacks, and videos whose file has changed, with their patch tokens. A cached text stays, and so do patch
    tokens of the frames in the cache: the cache does not know their files."""
    if cache is None or replace:
        return {kind: dict(entries) for kind, entries in items.items()}
    return {
        "videos": {name: item for name, item in items["videos"].items() if not cache.is_current(name, item.size, item.mtime_ns)},
        "texts": {text: item for text, item in items["texts"].items() if ("texts", text) not in cache},
        "patches": {name: item for name, item in items["patches"].items() if not _has_patches(cache, name, items["videos"][name])},
    }


def _has_patches(cache: FeatureCache | None, name: str, frames: Item) -> bool:
    """Whether the cache has the frames of a video as they are in their file, and their patch tokens."""
    return cache is not None and cache.is_current(name, frames.size, frames.mtime_ns) and cache.has_patches(name)


def _require_patches(options: ImportOptions, matched: Matched, cache: FeatureCache | None, todo: Mapping[Kind, Mapping[str, Item]]) -> None:
    """Raise UserError if patch tokens, as far as headers tell, are of other frames than the videos', or differ in their number."""
    settings = None if cache is None or not matched.patches else cache.patch_settings
    count = None if settings is None else settings.count
    for name, item in todo["patches"].items():
        if not item.shape:
            continue
        count = item.shape[1] if count is None else count
        require_patches(item.shape[1], count, item, None if settings is None else options.cache)
        frames = todo["videos"].get(name)
        if frames is not None and frames.shape:
            require_frames(item.shape[0], frames.shape[0], item)
        elif frames is None and cache is not None:
            place = cache.places("videos")[name]
            require_frames(item.shape[0], place.stop - place.start, item)


def _say(options: ImportOptions, about: About, readers: Mapping[Kind, Reader], matched: Matched, dimension: int, dtype: str) -> None:
    if options.quiet:
        return
    counts = f"{len(matched.videos):,} videos and {len(matched.texts):,} texts"
    counts += f", patch tokens of {len(matched.patches):,} videos" if "patches" in readers else ""
    lines = [f"{counts}, {dimension} wide, kept as {dtype}", about.limits(), *matched.dataset.notes, *matched.notes()]
    other = [f"{count:,} {suffix}" for reader in readers.values() for suffix, count in reader.left_alone().items()]
    lines += [f"files left alone: {', '.join(other)}"] if other else []
    missing = [(len(matched.without_frames), "videos"), (len(matched.without_texts), "captions")]
    lines += [f"without features: {count:,} {what} of the table" for count, what in missing if count]
    lines += [f"without patch tokens: {len(matched.without_patches):,} videos"] if matched.without_patches else []
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
    listed = matched.dataset.videos
    # As a list: pandas takes several times longer to iterate over a column of Arrow strings.
    ids: list[str] = listed["video_id"].tolist()

    def overlap(name: str) -> float:
        before = {*cache.listings.videos(name)["video_id"]}
        return len(before & {*ids}) / max(len(before), 1)

    own = name_of(source, options.name, True, cache.listings.sources(cache.listings.damaged()), overlap)
    files = _files_of([matched.videos.get(video_id) for video_id in ids], options.frames)
    before = cache.listings
    if own in before.names() and own not in before.damaged():
        # A later import may bring only the texts, or some of the videos.
        known = before.videos(own).drop_duplicates("video_id").set_index("video_id")["file"]
        files = [file or known.get(video_id) for file, video_id in zip(files, ids, strict=True)]
    return own, Listing(
        source, matched.dataset.captions, listed.assign(file=pd.Series(files, index=listed.index, dtype=object), failed=False)
    )


def _files_of(items: Sequence[Item | None], frames: Path | None) -> list[str | None]:
    """The file of features of each video, as the listing names it: its path under --frames, or the name of that file."""
    if frames is None:
        return [None] * len(items)
    below = os.path.join(frames, "")

    def name_of_file(path: Path) -> str:
        whole = str(path)
        return path_text(whole[len(below) :] if whole.startswith(below) else path.name)

    # Once for each file: one file may hold all videos.
    names = {path: name_of_file(path) for path in {item.path for item in items if item is not None}}
    return [None if item is None else names[item.path] for item in items]


class _Parts:
    """Checks blocks and writes each as a part, in threads. At most WRITERS wait, so that memory stays flat."""

    def __init__(self, cache: FeatureCache, kind: Kind, about: About, fps: float, begun: Future[None]) -> None:
        self._cache, self._kind, self._about, self._fps, self._begun = cache, kind, about, fps, begun
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: deque[Future[None]] = deque()
        self._turn = threading.Lock()
        self._count: int | None = None
        """M, the number of patch tokens of every frame."""
        self.lacking = 0
        """Videos that brought no times, or texts that brought no sentence feature."""

    def add(self, block: Block, names: Mapping[int, str]) -> None:
        """Write a block, whose entries have these names in the cache. Raises UserError for a bad feature in this or an earlier block."""
        self.lacking += len(block.items) if block.extra is None else 0
        if self._kind == "patches":
            self._require_patches(block, [names[id(item)] for item in block.items])
        if len(self._pending) >= WRITERS:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._store, block, [names[id(item)] for item in block.items]))

    def finish(self) -> None:
        """Wait for all parts. Raises the first of their errors after all have ended."""
        self._pool.shutdown()
        for pending in self._pending:
            pending.result()

    def _require_patches(self, block: Block, names: Sequence[str]) -> None:
        """Raise UserError if patch tokens differ in their number, or do not belong to the frames. Headers may not have told."""
        there = self._cache.patch_settings
        if self._count is None:
            self._count = block.rows_RD.shape[1] if there is None else there.count
        require_patches(block.rows_RD.shape[1], self._count, block.items[0], None if there is None else self._cache.path)
        for item, name, count in zip(block.items, names, block.counts, strict=True):
            place = self._cache.places("videos")[name]
            require_frames(count, place.stop - place.start, item)

    def _store(self, block: Block, names: Sequence[str]) -> None:
        require_width(block.rows_RD.shape[-1], self._cache.dimension, block.items[0])
        require_sound(block, self._kind)
        rows_RD = _as(block.rows_RD, self._cache.settings["dtype"], block)
        make = {"videos": self._videos, "texts": self._texts, "patches": self._patches}[self._kind]
        arrays = make(block, names, rows_RD)
        self._cache.store(self._kind, arrays, json.dumps([names, time.time_ns()]).encode(), self._begun.result, self._turn)
        block.done()

    def _videos(self, block: Block, names: Sequence[str], rows_RD: NDArray[Any]) -> dict[str, Any]:
        seconds_R = block.extra
        if seconds_R is None:
            first_N = np.cumsum(block.counts) - block.counts
            seconds_R = (np.arange(len(rows_RD)) - np.repeat(first_N, block.counts)) / self._fps
        stamps = [(item.size, item.mtime_ns) for item in block.items]
        return bare_video_arrays(names, rows_RD, block.counts, seconds_R.astype(np.float64), stamps)

    def _patches(self, block: Block, names: Sequence[str], rows_RMD: NDArray[Any]) -> dict[str, Any]:
        # Which of a frame's patches they are is not known.
        return bare_patch_arrays(names, rows_RMD, block.counts, None, [self._cache.stamp(name) for name in names])

    def _texts(self, block: Block, names: Sequence[str], rows_RD: NDArray[Any]) -> dict[str, Any]:
        for item, count in zip(block.items, block.counts, strict=True):
            _require_length(count, self._about, item)
        offsets = offsets_of(block.counts)
        # The sentence feature of CLIP is that of the end token.
        sentence_ND = rows_RD[offsets[1:] - 1] if block.extra is None else _as(block.extra, self._cache.settings["dtype"], block)
        tokens = np.zeros(len(names), dtype=np.int64)
        return {"text": list(names), "offsets": offsets, "words": rows_RD, "sentence": sentence_ND, "tokens": tokens}


def _write(
    cache: FeatureCache, kind: Kind, reader: Reader, todo: Mapping[str, Item], about: About, options: ImportOptions, begun: Future[None]
) -> None:
    """Read these entries and write them in parts. An interrupted import keeps the parts that are written.

    begun: done when the listing is written, which must come before the parts.
    """
    names = {id(item): name for name, item in todo.items()}
    # In the order of the files; the table may have another.
    order = [item for item in reader.items if id(item) in names]
    parts = _Parts(cache, kind, about, options.fps or 1.0, begun)
    with Progress(kind, len(order), f"{NOUN[kind]}s", options.quiet) as progress:
        try:
            for block in reader.read(order):
                parts.add(block, names)
                progress.update(len(block.items))
        finally:
            parts.finish()
    if kind == "videos" and parts.lacking and options.fps is None:
        print(f"{parts.lacking:,} videos bring no times: their frames count as one per second (--fps RATE sets another)", file=sys.stderr)
    if kind == "texts" and parts.lacking:
        print(f"{parts.lacking:,} texts bring no sentence feature: that of their last token is used, as in CLIP", file=sys.stderr)


def _as(features: NDArray[Any], dtype: str, block: Block) -> NDArray[Any]:
    """The features in the dtype of the cache. Raises UserError if one is too large for it."""
    if features.dtype == dtype:
        return features
    with np.errstate(over="ignore"):
        made = features.astype(dtype)
    if not all_finite(made):
        row = int(np.flatnonzero(~np.isfinite(made.reshape(len(made), -1)).all(axis=1))[0])
        entry = row if features is block.extra else int(np.searchsorted(np.cumsum(block.counts), row, side="right"))
        raise UserError(f"{block.items[entry].place}: a feature is too large for {dtype}: import into another --cache with --dtype float32")
    return made
