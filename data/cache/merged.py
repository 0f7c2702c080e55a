"""Write a whole cache into one sealed file."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.base.errors import UserError
from data.base.sealed import seal
from data.base.whole_files import written_whole
from data.cache.extraction import Extraction
from data.cache.hdf5 import Group, append, new_file, open_file, write_arrays
from data.cache.index import Index, Place, have_current_patches, read_column, runs
from data.cache.layout import ENTRIES, IMAGES, NAMES, ROWS, WHOLE, ClipParts, Kind, offsets_of, row_bytes_of, settings_digest, write_clip


def write_merged(
    out: Path,
    indices: Mapping[Kind, Index],
    tables: Mapping[str, Path],
    settings: Mapping[str, Any],
    clip: ClipParts,
    provenance: Mapping[str, Any],
    extraction: Extraction,
) -> None:
    """Write the contents of CLIP_FILE at the root, one group per kind laid out like a part, and the tables as bytes.

    Replaced entries are left out, and so are patch tokens that do not belong to the frames. Raises UserError if the disk has too little
    room.
    """
    places: dict[Kind, Mapping[str, Place]] = {kind: index.places for kind, index in indices.items()}
    of_videos, of_patches = indices["videos"], indices["patches"]
    current = {name: place for name, place in of_patches.places.items() if have_current_patches(of_videos, of_patches, name)}
    places["patches"] = current
    if not current:
        del places["patches"]
    row_bytes = {kind: row_bytes_of(kind, settings, of_patches.patches) for kind in places}
    _require_room(out, places, row_bytes)
    with written_whole(out) as temporary:
        with new_file(temporary) as (file, check):
            write_clip(file, settings, clip, provenance, extraction)
            for kind, of_kind in places.items():
                group = file.create_group(kind)
                group.attrs["digest"] = settings_digest(settings)
                group.attrs["written_ns"] = _written_ns(indices, kind)
                _write_kind(kind, of_kind, group, row_bytes[kind], check)
            contents = {name: np.frombuffer(path.read_bytes(), dtype=np.uint8) for name, path in tables.items()}
            write_arrays(file.create_group("tables"), contents)
        seal(temporary)


def _written_ns(indices: Mapping[Kind, Index], kind: Kind) -> int:
    """When the newest entry of a kind was written. Patch tokens in a merged file are never older than the frames they belong to."""
    kinds: tuple[Kind, ...] = ("videos", "patches") if kind == "patches" else (kind,)
    return max((time for one in kinds for time in indices[one].written_ns.values()), default=0)


def _require_room(out: Path, places: Mapping[Kind, Mapping[str, Place]], row_bytes: Mapping[Kind, int]) -> None:
    """Raise UserError if the features alone need more than the free space."""
    needed = sum((place.stop - place.start) * row_bytes[kind] for kind, of_kind in places.items() for place in of_kind.values())
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise UserError(
            f"{out} cannot be written: it needs more than {needed / 2**20:.1f} MiB and {free / 2**20:.1f} MiB are free: make room or "
            "choose another place"
        )


def _write_kind(kind: Kind, places: Mapping[str, Place], group: Group, row_bytes: int, check: Callable[[], None]) -> None:
    # By part and entry, so that each part is read once, from start to end.
    names = sorted(places, key=lambda name: places[name][:2])
    offsets = offsets_of([places[name].stop - places[name].start for name in names])
    write_arrays(group, {NAMES[kind]: names, "offsets": offsets})
    for part in dict.fromkeys(places[name].part for name in names):
        members = [name for name in names if places[name].part == part]
        with open_file(part.path) as file:
            source = file[part.group]
            # Equal in all parts.
            write_arrays(group, {dataset: source[dataset][()] for dataset in WHOLE[kind] if dataset not in group})
            for dataset in ENTRIES[kind]:
                rows = read_column(source, dataset, len(source[NAMES[kind]]))[[places[name].entry for name in members]]
                append(group, dataset, rows)
                check()
            for dataset in ROWS[kind]:
                for run in runs(range(len(members)), [places[name] for name in members], row_bytes):
                    begin = places[members[run[0]]].start
                    block = source[dataset][begin : places[members[run[-1]]].stop]
                    kept = [np.arange(places[members[i]].start, places[members[i]].stop) - begin for i in run]
                    append(group, dataset, block[np.concatenate(kept)])
                    check()
            for dataset in IMAGES[kind]:
                begins = source[f"{dataset}_offsets"][()]
                for name in members:
                    of_rows = begins[places[name].start : places[name].stop + 1]
                    append(group, dataset, source[dataset][of_rows[0] : of_rows[-1]])
                    append(group, f"{dataset}_lengths", np.diff(of_rows))
                    check()
    for dataset in IMAGES[kind]:
        lengths = group[f"{dataset}_lengths"][()] if names else []
        group.create_dataset(f"{dataset}_offsets", data=offsets_of(lengths))
        if names:
            del group[f"{dataset}_lengths"]
