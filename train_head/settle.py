"""Decide the training options whose default depends on the head or on the cache, and say how the head starts."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from data.base.errors import UserError
from data.cache import ClipParts, FeatureCache
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
HARD_NEGATIVES = {"hard_negatives": 15, "candidates": 50}
"""What the options of --candidates-run stand for if they are not given."""
NOT_FROM_CLIP = "not_from_clip_because"
"""In run.json, under `start`: why CLIP's text blocks do not fit; empty if they do."""


def settled(options: TrainOptions, cache: FeatureCache) -> TrainOptions:
    """The options with the values that their defaults stand for, as runs record them. A temperature that the head lacks stays None.

    Raises UserError for --temporal-init clip if the text blocks of the cache's CLIP do not fit.
    """
    unread = not has_blocks(options) or options.temporal_init == "random"
    why = "" if unread else misfit(cache.dimension, cache.clip_parts())
    if why and options.temporal_init == "clip":
        other = "" if head_class(options.head).OWN_BLOCKS else " or --temporal none"
        raise UserError(f"--temporal-init clip: {why}: use --temporal-init random{other}")
    return _settled(options, why)


def settled_like(options: TrainOptions, record: Mapping[str, Any]) -> TrainOptions:
    """The options as `settled` on the cache that a finished run was trained on, which may be gone. `record`: contents of its run.json."""
    start = record.get("start", {})
    return _settled(options, next((blocks[NOT_FROM_CLIP] for blocks in start.values() if NOT_FROM_CLIP in blocks), ""))


def has_blocks(options: TrainOptions) -> bool:
    """Whether the head, or the temporal encoder in front of it, has Transformer blocks that --temporal-init starts."""
    kind = head_class(options.head)
    return _temporal(options) == "seq-transf" or (kind.OWN_BLOCKS and kind.STARTS_FROM_CLIP)


def _temporal(options: TrainOptions) -> Literal["seq-transf", "seq-lstm", "none"]:
    """The temporal encoder that --temporal stands for."""
    if options.temporal != "auto":
        return options.temporal
    return "none" if head_class(options.head).OWN_BLOCKS else "seq-transf"


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
    if options.candidates_run is not None:
        chosen |= {name: value for name, value in HARD_NEGATIVES.items() if getattr(options, name) is None}
    chosen["temporal"] = _temporal(options)
    if options.temporal_init == "auto":
        # Without a temporal encoder nobody reads it. Runs made before `auto` record clip, and resuming and sweeps compare with those.
        random = chosen["temporal"] == "seq-lstm" or (why and has_blocks(options))
        chosen["temporal_init"] = "random" if random else "clip"
    return by_recipe(replace(options, **chosen))


def start_of(options: TrainOptions, cache: FeatureCache) -> dict[str, Any]:
    """How the head of these settled options starts, for run.json.

    `temporal`, the temporal encoder, or `cross`, the head's own blocks: what they are initialised from, their positions, and those among
    them that CLIP does not have. `frame_matrices`: likewise the rows of matrices over frames.
    """
    parts, kind = cache.clip_parts(), head_class(options.head)
    of_clip = clip_positions(parts)
    found: dict[str, Any] = {}
    if has_blocks(options):
        rows = position_rows(options, cache, parts)
        own = of_clip if options.temporal_init == "clip" else 0
        start: dict[str, Any] = {"from": options.temporal_init, "positions": rows, "positions_of_clip": own, "positions_added": rows - own}
        if options.temporal_init == "random":
            start[NOT_FROM_CLIP] = misfit(cache.dimension, parts)
        found["cross" if kind.OWN_BLOCKS else "temporal"] = start
    elif options.temporal != "none":
        found["temporal"] = {"from": "random"}
    if kind.FRAME_MATRICES:
        rows = frame_rows(cache, parts, options.max_frames)
        found["frame_matrices"] = {"rows": rows, "rows_added": max(0, rows - of_clip)}
    return found


def position_rows(options: TrainOptions, cache: FeatureCache, parts: ClipParts) -> int:
    """The positions of the Transformer blocks: one for each frame, or as many as the head's own blocks need."""
    frames, kind = frames_of(cache) if options.max_frames is None else options.max_frames, head_class(options.head)
    return max(clip_positions(parts), kind.block_positions(frames) if kind.OWN_BLOCKS else frames)


def start_lines(options: TrainOptions, cache: FeatureCache, quiet: bool) -> Iterator[str]:
    """`start_of` as lines for people. With `quiet`, only where the start is not the usual one (CLIP's blocks and positions, or random for
    an encoder that CLIP has no blocks for), and where --padding changes nothing."""
    start = start_of(options, cache)
    blocks, matrices = start.get("temporal") or start.get("cross"), start.get("frame_matrices")
    what = f"blocks of head {options.head}" if "cross" in start else "temporal encoder"
    starts = "start" if "cross" in start else "starts"
    fewer = "" if options.max_frames is not None else f", for videos of up to {frames_of(cache)} frames; --max-frames uses fewer"
    if blocks:
        why = blocks.get(NOT_FROM_CLIP)
        if why or not quiet:
            where = "from CLIP's text blocks" if blocks["from"] == "clip" else "at random"
            yield f"{what}: {starts} {where}{f', because {why}' if why else ''}"
        if blocks.get("positions_of_clip") and blocks["positions_added"]:
            yield (
                f"{what}: {blocks['positions']:,} positions; {blocks['positions_of_clip']:,} are CLIP's, and "
                f"{blocks['positions_added']:,} are added, drawn like CLIP's{fewer}"
            )
    # A sweep would train the same twice.
    if options.padding == "authors" and not (quiet and head_class(options.head).AUTHORS_PADDING == "counts"):
        yield _padding_line(options, cache)
    if matrices and matrices["rows_added"]:
        yield (
            f"head {options.head}: matrices over {matrices['rows']:,} frames, {matrices['rows_added']:,} more than CLIP has positions; "
            f"they start like the others{fewer}"
        )


def _padding_line(options: TrainOptions, cache: FeatureCache) -> str:
    kind = head_class(options.head)
    if kind.AUTHORS_PADDING == "masked":
        return f"padding: the authors of {options.head} mask it as we do, so --padding authors changes nothing"
    words = f"{cache.settings['max_words']} words and " if kind.READS_WORDS else ""
    frames = padding_of(options, cache)["padded_frames"]
    return (
        f"padding counts as in the code of {options.head}'s authors, up to {words}{frames:,} frame{'' if frames == 1 else 's'}: as "
        "zero vectors, because the cache holds no features of padding; their figures are approached, not reproduced"
    )
