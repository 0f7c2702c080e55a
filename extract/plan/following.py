"""Fill in options that are not given: from an existing cache, else from the preset, else from a default."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.base.errors import UserError
from data.base.sealed import is_sound
from data.cache import CLIP_FILE
from data.cache.extraction import read_extraction
from data.cache.hdf5 import open_file
from data.cache.layout import UNRECORDED, read_patch_settings
from data.cache.sources import Source, source_of
from data.cli.meaning import Meaning, NewCache, marks, options_with
from data.datasets import Preset, Shares, shares_of
from extract.options import ExtractOptions


def new_cache_defaults() -> dict[str, Any]:
    """Defaults of the options that would otherwise follow an existing cache."""
    return {name: mark.value for name, its_marks in marks(ExtractOptions).items() for mark in its_marks if isinstance(mark, NewCache)}


def with_defaults(options: ExtractOptions, preset: Preset, recorded: dict[str, Any], served: Collection[str]) -> ExtractOptions:
    """The options, with a value for each option that was not given.

    `recorded` holds the settings of the cache, and is empty if there is none. `served` holds the presets of its sources. Given options are
    not changed: opening the cache refuses those that differ from it. `max_words` stays None unless the cache records it, since its default
    depends on the model. Raises UserError if all patch tokens of the cache are damaged and --tokens is not given.
    """
    # The cache's recipe takes precedence for the user's own folder or table, and for a preset that the cache already serves.
    recipe = options_with(ExtractOptions, Meaning.RECIPE) if preset.name in served or not preset.files else ()
    names = ("precision", "dtype", *recipe)
    followed = {name: recorded[name] for name in names} if recorded else {}
    if recorded:
        followed |= {name: recorded.get(name, usual) for name, usual in UNRECORDED.items()}
        if not (options.token_shift or options.token_clusters):
            # Else opening the cache says that it has the other one.
            followed |= {name: recorded[name] for name in ("token_shift", "token_clusters") if name in recorded}
        if options.model is None and options.pretrained is None:
            followed |= _model_of(options)
    of_preset = {"fps": preset.fps, "max_frames": preset.max_frames, "pictures": preset.pictures}
    # Else a cache would hold patch tokens of some of its videos alone.
    tokens = _tokens_of(options.cache) if options.tokens is None else options.tokens
    values = new_cache_defaults() | of_preset | followed | {"tokens": tokens}
    unset = (None, False, "auto")
    return replace(options, **{name: value for name, value in values.items() if name == "seed" or getattr(options, name) in unset})


def shares_of_table(options: ExtractOptions, preset: Preset, sources: Mapping[str, Source]) -> Shares | None:
    """The ratio in which a table is split: --split-by-hash, else the ratio of its last extraction into the cache, else None.

    `sources` are the sources of the cache by name. One is taken for the same table if it has the same path, or the file name of a path that
    no longer exists. With `--name`, the source of that name is.
    """
    if options.split_by_hash is not None:
        return shares_of(options.split_by_hash)
    if options.annotations is None or preset.files:
        return None
    own = source_of(preset, options.videos, options.annotations)
    assert own.origin is not None
    of_preset = [source for source in sources.values() if source.preset == own.preset and source.origin is not None]
    same = [source for source in of_preset if source.origin == own.origin]
    if not same:
        gone = [source for source in of_preset if source.origin is not None and not os.path.exists(source.origin)]
        same = [source for source in gone if os.path.basename(source.origin or "") == os.path.basename(own.origin)]
    if options.name is not None:
        same = [sources[options.name]] if options.name in sources else []
    return next((shares_of(source.division, followed=True) for source in same if source.division is not None), None)


def _tokens_of(cache: Path) -> str | None:
    """The --tokens of the patch tokens that the cache in a folder holds, read from any intact part; None if there is none.

    Raises UserError if there are parts and all are damaged: they would be deleted, and nothing would say what to make again.
    """
    parts = sorted(cache.glob("patches-*.h5"))
    for part in parts:
        if is_sound(part):
            with open_file(part) as opened:
                return read_patch_settings(opened).option
    if parts:
        raise UserError(
            f"{parts[0]} is damaged, as is every part with patch tokens: name the --tokens that they were made with, or remove the parts"
        )
    return None


def _model_of(options: ExtractOptions) -> dict[str, Any]:
    """Model, weights and seed that made the cache; empty if the file that records them is damaged."""
    file = options.cache / CLIP_FILE
    if not file.is_file() or not is_sound(file):
        return {}
    with open_file(file) as opened:
        made = read_extraction(opened.attrs, file)
    return {} if made.model is None else {"model": made.model, "pretrained": made.pretrained, "seed": made.seed}
