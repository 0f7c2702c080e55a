"""Export the features of a cache to safetensors, npz or Parquet, one file after the other, so that memory stays flat.

Shape suffixes: T rows of an entry (frames or tokens), M patch tokens of a frame, D joint dimension.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.progress import Progress
from data.base.whole_files import write_json, write_whole, written_whole
from data.base.writable import make_folder, require_writable_folder
from data.cache import FeatureCache
from data.cache.index import Place
from data.cache.layout import NAMES, Kind, row_bytes_of
from data.cache.reading import iterate
from data.datasets.adapters.table import SEARCHED
from data.exchange.about import IMAGES, About, inside_of, recorded_about
from data.exchange.items import EXTRA, NOUN, ROWS
from data.exchange.options import ExportOptions

SHARD_BYTES = 2**26
"""Bytes of features in a file."""
UNSAFE = re.compile(r"[/\\]|^\.|\.$|^number-\d")
"""What makes a name no file name; numbers are for those."""
LONGEST_NAME = 200
"""Bytes of a file name, without its suffix."""


class Entry(NamedTuple):
    """A video or text: its name, rows [T, D], and seconds [T] or sentence [D]. Patch tokens have rows [T, M, D] and nothing else."""

    name: str
    rows_TD: NDArray[Any]
    extra: NDArray[Any] | None

    @property
    def bytes_held(self) -> int:
        """Bytes of memory in use."""
        return self.rows_TD.nbytes + (0 if self.extra is None else self.extra.nbytes)


def export_features(options: ExportOptions) -> dict[str, int]:
    """Write all features, tables and about.json. Returns counts of videos, texts, videos with patch tokens, and bytes.

    Raises UserError if OUT holds files.
    """
    cache = FeatureCache(options.cache)
    if options.out.is_dir() and any(options.out.iterdir()):
        raise UserError(f"{options.out} holds files already: name a new folder, or empty it")
    if not cache.names("videos") and not cache.names("texts"):
        raise UserError(f"{options.cache} holds no videos and no texts: there is nothing to export")
    require_writable_folder(options.out, "OUT")
    write: Callable[[Path, Kind, Sequence[Entry], int], None] = {
        "safetensors": _write_safetensors,
        "npz": _write_npz,
        "parquet": _write_parquet,
    }[options.form]
    # Patch tokens of other frames than those in the cache would be refused by an import.
    places: dict[Kind, Mapping[str, Place]] = {
        "videos": cache.places("videos"),
        "texts": cache.places("texts"),
        "patches": {name: place for name, place in cache.places("patches").items() if cache.has_patches(name)},
    }
    for kind, of_kind in places.items():
        if not of_kind:
            continue
        folder = options.out / kind
        make_folder(folder, "OUT")
        first = 0
        with Progress(kind, len(of_kind), f"{NOUN[kind]}s", options.quiet) as progress:
            for entries in _shards(cache, kind, of_kind):
                write(folder, kind, entries, first)
                first += len(entries)
                progress.update(len(entries))
    for name in cache.listings.names():
        _write_table(options.out / f"table-{name}.parquet", cache, name)
    about = _about(cache)
    write_json(options.out / "about.json", {name: value for name, value in asdict(about).items() if value is not None})
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    return {kind: len(of_kind) for kind, of_kind in places.items()} | {"bytes": size}


def _about(cache: FeatureCache) -> About:
    if cache.imported:
        return recorded_about(cache.settings)
    # An extraction knows all of it.
    made = cache.extraction
    preprocessing = {name: cache.settings[name] for name in IMAGES if name in cache.settings}
    scale = cache.clip_parts().logit_scale
    return About(
        made.model, made.pretrained, cache.weights, scale, int(cache.settings["max_words"]), preprocessing, **inside_of(cache.settings)
    )


def _write_table(path: Path, cache: FeatureCache, name: str) -> None:
    """The captions of a source as a table that extract and data.import_features read."""
    captions = cache.listings.captions(name)
    if captions.empty:
        return
    spans = cache.listings.videos(name).set_index("video_id")[["start", "end"]]
    start, end = (captions["video_id"].map(spans[side]) for side in ("start", "end"))
    table = captions.assign(video=captions["video_id"], start=start, end=end)
    columns = ["video", "caption", *([] if (table["split"] == SEARCHED).all() else ["split"])]
    columns += [side for side in ("start", "end") if table[side].notna().any()]
    columns += ["kind"] * ("kind" in table)
    content = io.BytesIO()
    table[columns].to_parquet(content, index=False)
    write_whole(path, content.getvalue())


def _shards(cache: FeatureCache, kind: Kind, places: Mapping[str, Place]) -> Iterator[list[Entry]]:
    """The entries of a kind in groups of about SHARD_BYTES."""
    entries: list[Entry] = []
    held = 0
    patches = cache.patch_settings if kind == "patches" else None
    for found in iterate(kind, places, row_bytes_of(kind, cache.settings, patches)):
        entry = Entry(*found)
        entries.append(entry)
        held += entry.bytes_held
        if held >= SHARD_BYTES:
            yield entries
            entries, held = [], 0
    if entries:
        yield entries


def _write_safetensors(folder: Path, kind: Kind, entries: Sequence[Entry], first: int) -> None:
    """`NAME/frames` and `NAME/seconds`, or `NAME/patches`; texts have numbers for names, and the file's metadata maps those to texts."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    names = [f"{number:06}" if kind == "texts" else entry.name for number, entry in enumerate(entries, first)]
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in zip(names, entries, strict=True):
        if len(entry.rows_TD):
            tensors[f"{name}/{ROWS[kind]}"] = np.ascontiguousarray(entry.rows_TD)
        if entry.extra is not None:
            tensors[f"{name}/{EXTRA[kind]}"] = np.ascontiguousarray(entry.extra)
    texts = None if kind != "texts" else {name: entry.name for name, entry in zip(names, entries, strict=True)}
    with written_whole(folder / f"{first:08}.safetensors") as temporary:
        try:
            save_file(tensors, temporary, metadata=texts)
        except SafetensorError as error:
            # safetensors reports disk errors as SafetensorError.
            raise OSError(str(error)) from error


def _write_npz(folder: Path, kind: Kind, entries: Sequence[Entry], first: int) -> None:
    """A file for each entry, named by its id if that is a file name, else by its number. The name is inside too."""
    for number, entry in enumerate(entries, first):
        arrays = {NAMES[kind]: np.array(entry.name)}
        if entry.extra is not None:
            arrays[EXTRA[kind]] = entry.extra
        if len(entry.rows_TD):
            arrays[ROWS[kind]] = entry.rows_TD
        named = kind != "texts" and entry.name.isprintable() and len(entry.name.encode()) <= LONGEST_NAME and not UNSAFE.search(entry.name)
        stem = entry.name if named else f"number-{number:08}"
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_whole(folder / f"{stem}.npz", content.getvalue())


def _write_parquet(folder: Path, kind: Kind, entries: Sequence[Entry], first: int) -> None:
    """A row for each entry: its name, its features as a list of lists (patch tokens: of lists of lists), and the seconds or the sentence
    as a list."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def lists(values: Any, lengths: Sequence[int]) -> Any:
        return pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), values)

    rows_TD = np.concatenate([entry.rows_TD for entry in entries])
    vectors, count = pa.array(rows_TD.reshape(-1)), rows_TD.size
    for length in reversed(rows_TD.shape[1:]):
        count //= length
        vectors = lists(vectors, [length] * count)
    columns = {
        NAMES[kind]: pa.array([entry.name for entry in entries]),
        ROWS[kind]: lists(vectors, [len(entry.rows_TD) for entry in entries]),
    }
    extras = [entry.extra for entry in entries if entry.extra is not None]
    if extras:
        columns[EXTRA[kind]] = lists(pa.array(np.concatenate(extras)), list(map(len, extras)))
    with written_whole(folder / f"{first:08}.parquet") as temporary:
        # Features do not compress.
        pq.write_table(pa.table(columns), temporary, row_group_size=1024, compression="none", use_dictionary=False)
