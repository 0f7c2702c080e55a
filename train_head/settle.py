"""Decide the training options whose default depends on the head or on the cache, and say how the head starts."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from data.base.errors import UserError
from data.cache import FeatureCache
from train_head.heads import head_class
from train_head.options import TrainOptions
from train_head.run import frame_rows, frames_of
from train_head.temperatures import KAPPA, TAU
from train_head.temporal import clip_positions, misfit

RECIPES: dict[str | None, dict[str, Any]] = {
    None: {"optimizer": "adamw", "padding": "masked"},
    "authors": {"optimizer": "bert-adam", "padding": "authors"},
}
"""What each --recipe stands for."""
NOT_FROM_CLIP = "not_from_clip_because"
"""In run.json, under `start`: why CLIP's text blocks do not fit; empty if they do."""


def settled(options: TrainOptions, cache: FeatureCache) -> TrainOptions:
    """The options with the values that their defaults stand for, as runs record them. A temperature that the head lacks stays None.

    Raises UserError for --temporal-init clip if the text blocks of the cache's CLIP do not fit.
    """
    unread = options.temporal == "none" or options.temporal_init == "random"
    why = "" if unread else misfit(cache.dimension, cache.clip_parts())
    if why and options.temporal_init == "clip":
        raise UserError(f"--temporal-init clip: {why}: use --temporal-init random or --temporal none")
    return _settled(options, why)


def settled_like(options: TrainOptions, record: Mapping[str, Any]) -> TrainOptions:
    """The options as `settled` on the cache that a finished run was trained on, which may be gone. `record`: contents of its run.json."""
    return _settled(options, record.get("start", {}).get("temporal", {}).get(NOT_FROM_CLIP, ""))


def by_recipe(options: TrainOptions) -> TrainOptions:
    """The options with the values of --recipe for those that are not given."""
    return replace(options, **{name: value for name, value in RECIPES[options.recipe].items() if getattr(options, name) is None})


def padding_of(options: TrainOptions, cache: FeatureCache) -> dict[str, Any]:
    """The fields of `HeadConfig` that describe the padding of these settled options."""
    if options.padding != "authors":
        return {}
    return {"padding": "authors", "padded_frames": frames_of(cache) if options.max_frames is None else options.max_frames}


def _settled(options: TrainOptions, why: str) -> TrainOptions:
    usual = {"tau": TAU, "kappa": KAPPA}
    chosen: dict[str, Any] = {name: usual[name] for name in head_class(options.head).TEMPERATURES if getattr(options, name) is None}
    if options.temporal_init == "auto":
        # Without a temporal encoder nobody reads it. Runs made before `auto` record clip, and resuming and sweeps compare with those.
        chosen["temporal_init"] = "random" if why and options.temporal != "none" else "clip"
    return by_recipe(replace(options, **chosen))


def start_of(options: TrainOptions, cache: FeatureCache) -> dict[str, Any]:
    """How the head of these settled options starts, for run.json: what the temporal encoder is initialised from, its positions, and those
    among them that CLIP does not have. Likewise the rows of matrices over frames, for a head that has them."""
    parts = cache.clip_parts()
    rows, of_clip = frame_rows(cache, parts, options.max_frames), clip_positions(parts)
    found: dict[str, Any] = {}
    if options.temporal != "none":
        own = of_clip if options.temporal_init == "clip" else 0
        found["temporal"] = {"from": options.temporal_init, "positions": rows, "positions_of_clip": own, "positions_added": rows - own}
        if options.temporal_init == "random":
            found["temporal"] |= {NOT_FROM_CLIP: misfit(cache.dimension, parts)}
    if head_class(options.head).FRAME_MATRICES:
        found["frame_matrices"] = {"rows": rows, "rows_added": max(0, rows - of_clip)}
    return found


def start_lines(options: TrainOptions, cache: FeatureCache, quiet: bool) -> Iterator[str]:
    """`start_of` as lines for people. With `quiet`, only where the start is not the usual one: CLIP's blocks and positions."""
    start = start_of(options, cache)
    temporal, matrices = start.get("temporal"), start.get("frame_matrices")
    fewer = "" if options.max_frames is not None else f", for videos of up to {frames_of(cache)} frames; --max-frames uses fewer"
    if temporal:
        why = temporal.get(NOT_FROM_CLIP)
        if why or not quiet:
            where = "from CLIP's text blocks" if temporal["from"] == "clip" else "at random"
            yield f"temporal encoder: starts {where}{f', because {why}' if why else ''}"
        if temporal["positions_of_clip"] and temporal["positions_added"]:
            yield (
                f"temporal encoder: {temporal['positions']:,} positions; {temporal['positions_of_clip']:,} are CLIP's, and "
                f"{temporal['positions_added']:,} are added, drawn like CLIP's{fewer}"
            )
    if options.padding == "authors" and not quiet:
        yield _padding_line(options, cache)
    if matrices and matrices["rows_added"]:
        yield (
            f"head {options.head}: matrices over {matrices['rows']:,} frames, {matrices['rows_added']:,} more than CLIP has positions; "
            f"they start as identities, like the others{fewer}"
        )


def _padding_line(options: TrainOptions, cache: FeatureCache) -> str:
    kind = head_class(options.head)
    if not kind.AUTHORS_PADDING:
        return f"padding: the authors of {options.head} mask it as we do, so --padding authors changes nothing"
    words = f"{cache.settings['max_words']} words and " if kind.READS_WORDS else ""
    return (
        f"padding counts as in the code of {options.head}'s authors, up to {words}{padding_of(options, cache)['padded_frames']} frames: as "
        "zero vectors, because the cache holds no features of padding; their figures are approached, not reproduced"
    )
