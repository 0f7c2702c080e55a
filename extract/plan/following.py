"""Options that are not given: an existing cache says them, else the preset, else a default."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from data.base.sealed import is_sound
from data.cache import CLIP_FILE
from data.cache.extraction import read_extraction
from data.cache.hdf5 import open_file
from data.cache.sources import Source, source_of
from data.cli.meaning import Meaning, NewCache, marks, options_with
from data.datasets import Preset, Shares, shares_of
from extract.options import ExtractOptions


def new_cache_defaults() -> dict[str, Any]:
    """The values of options that are not given, where there is no cache to follow."""
    return {name: mark.value for name, its_marks in marks(ExtractOptions).items() for mark in its_marks if isinstance(mark, NewCache)}


def with_defaults(options: ExtractOptions, preset: Preset, recorded: dict[str, Any], served: Collection[str]) -> ExtractOptions:
    """The options, with a value for each that was not given.

    `recorded`: the settings of an existing cache, empty where there is none; `served`: the presets of its sources. What was given stays as
    it is: where it differs from the cache, the cache refuses it. `max_words` stays None where no cache says it: the model has a word in it.
    """
    # The cache decides the recipe of a folder or table of the user's own, and of a preset that it has served.
    recipe = options_with(ExtractOptions, Meaning.RECIPE) if preset.name in served or not preset.files else ()
    names = ("precision", "dtype", *recipe)
    followed = {name: recorded[name] for name in names} if recorded else {}
    if recorded:
        followed["decode_device"] = recorded.get("decode_device", "cpu")
        if options.model is None and options.pretrained is None:
            followed |= _model_of(options)
    of_preset = {"fps": preset.fps, "max_frames": preset.max_frames, "pictures": preset.pictures}
    values = new_cache_defaults() | of_preset | followed
    unset = (None, "auto")
    return replace(options, **{name: value for name, value in values.items() if name == "seed" or getattr(options, name) in unset})


def shares_of_table(options: ExtractOptions, preset: Preset, sources: Mapping[str, Source]) -> Shares | None:
    """How the videos of a table are divided: as asked for, else as the same table was when it was last extracted into the cache.

    `sources`: those of the cache by name. It is the same table if it is the same file, or has the name of one that is gone, or goes by the
    same `--name`.
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


def _model_of(options: ExtractOptions) -> dict[str, Any]:
    """Model, weights and seed that the cache was made with; nothing where the file that says them is damaged."""
    file = options.cache / CLIP_FILE
    if not file.is_file() or not is_sound(file):
        return {}
    with open_file(file) as opened:
        made = read_extraction(opened.attrs, file)
    return {} if made.model is None else {"model": made.model, "pretrained": made.pretrained, "seed": made.seed}
