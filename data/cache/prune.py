"""Prune a cache: drop the entries that no source lists, and patch tokens that do not belong to the frames.

Parts are immutable: the remaining entries go into a new part, and then the old part is deleted. After an interruption both exist; their
entries are equal.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence, Set
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from data.base.sealed import write_sealed
from data.cache import FeatureCache
from data.cache.hdf5 import Group, file_bytes, open_file, write_arrays
from data.cache.index import Place, read_column
from data.cache.layout import ENTRIES, IMAGES, NAMES, ROWS, WHOLE, Kind, offsets_of


def unlisted(cache: FeatureCache, videos: Set[str], texts: Set[str]) -> dict[Kind, set[str]]:
    """The cached names of each kind to drop: those that are not listed, and videos whose patch tokens were made from other frames.

    `videos` and `texts` are the listed ids and captions.
    """
    # Patch tokens without frames stay if they are listed: another process may be about to write the frames.
    outdated = {name for name in cache.names("patches") if ("videos", name) in cache and not cache.has_patches(name)}
    return {
        "videos": {*cache.names("videos")} - videos,
        "texts": {*cache.names("texts")} - texts,
        "patches": ({*cache.names("patches")} - videos) | outdated,
    }


def drop(cache: FeatureCache, names: Mapping[Kind, Set[str]], parts: Collection[Path]) -> int:
    """Drop these entries, and all replaced entries, from these parts. Returns the bytes freed on disk.

    parts: some of the parts that existed when the cache was opened. Open the cache again afterwards.

    Raises UserError if the disk has no room for the rest of a part.
    """
    before = _bytes(cache.path)
    for kind, dropped in names.items():
        kept = {name: place for name, place in cache.places(kind).items() if name not in dropped}
        by_part = {
            part: dict(members) for part, members in groupby(sorted(kept.items(), key=lambda item: item[1]), lambda item: item[1].part.path)
        }
        for part in (part for part in parts if part.name.startswith(f"{kind}-")):
            _rewrite(cache, kind, part, by_part.get(part, {}))
    return before - _bytes(cache.path)


def _rewrite(cache: FeatureCache, kind: Kind, part: Path, kept: Mapping[str, Place]) -> None:
    """Replace a part by one that holds only these entries."""
    with open_file(part) as old:
        if len(kept) == len(old[NAMES[kind]]):
            return
        if kept:
            arrays, attributes = _select(old, kind, sorted(kept.values())), dict(old.attrs)

            def fill(new: Group) -> None:
                new.attrs.update(attributes)
                write_arrays(new, arrays)

            digest = hashlib.sha256("\0".join([part.name, *sorted(kept)]).encode()).hexdigest()
            write_sealed(cache.path / f"{kind}-{digest[:16]}.h5", file_bytes(fill))
    part.unlink()


def _select(old: Group, kind: Kind, places: Sequence[Place]) -> dict[str, Any]:
    """The datasets of a part, reduced to these entries."""
    entries = [place.entry for place in places]
    rows = np.concatenate([np.arange(place.start, place.stop) for place in places])
    columns = [NAMES[kind], *(name for name in ENTRIES[kind] if name in old)]
    arrays: dict[str, Any] = {name: read_column(old, name, len(old[NAMES[kind]]))[entries] for name in columns}
    # `write_arrays` writes strings from lists.
    arrays = {name: values.tolist() if values.dtype.kind in "OU" else values for name, values in arrays.items()}
    arrays["offsets"] = offsets_of([place.stop - place.start for place in places])
    arrays |= {name: old[name][()][rows] for name in ROWS[kind]} | {name: old[name][()] for name in WHOLE[kind]}
    for name in IMAGES[kind]:
        begins, content = old[f"{name}_offsets"][()], old[name][()]
        arrays[name] = np.concatenate([content[begins[place.start] : begins[place.stop]] for place in places])
        arrays[f"{name}_offsets"] = offsets_of(np.diff(begins)[rows])
    return arrays


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.h5"))
