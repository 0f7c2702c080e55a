"""A run on disk: the head's weights as safetensors, and JSON that says what made it and which caches it fits."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from data.cache import ClipParts, FeatureCache
from data.errors import UserError, one_line
from data.provenance import write_json
from data.tensors import read_tensors, write_tensors
from train_head.heads import HEADS, Head, HeadConfig, make_head
from train_head.splits import Split

WEIGHTS_FILE = "head.safetensors"
RUN_FILE = "run.json"
LOG_FILE = "log.csv"
CLIP_FOLDER = "clip"
"""The CLIP of a run that has trained it too, in the form of open_clip's local-dir."""
ZERO_SHOT = "zero-shot:"


def save_run(path: Path, head: Head, record: dict[str, Any]) -> None:
    """Write the weights, then run.json with the head's configuration and `record`; a run without run.json is not complete."""
    write_tensors(path / WEIGHTS_FILE, {name: value.contiguous() for name, value in head.state_dict().items()})
    write_json(path / RUN_FILE, {"head": {"head": head.name, **asdict(head.config)}, **record})


def load_head(run: str, cache: FeatureCache, device: torch.device) -> tuple[Head, dict[str, Any]]:
    """The head of a run folder, or an untrained one for `zero-shot:HEAD`, with the run's record.

    Raises UserError where there is no such run, it is damaged, or it was trained for other CLIP weights than made the cache.
    """
    if run.startswith(ZERO_SHOT):
        name = run.removeprefix(ZERO_SHOT)
        ready = [ZERO_SHOT + other for other, kind in HEADS.items() if not kind.TRAINED_ONLY]
        if name not in HEADS:
            raise UserError(f"--run {run}: choose {' or '.join(ready)}")
        if HEADS[name].TRAINED_ONLY:
            raise UserError(
                f"--run {run}: this head scores nothing before training; train it with --head {name}, or choose {', '.join(ready)}"
            )
        parts = cache.clip_parts()
        config = HeadConfig(cache.dimension, int(cache.settings["max_words"]), parts.logit_scale, max_frames(parts))
        return make_head(name, config).to(device), {"run": run}
    record = _read_record(Path(run))
    if record.get("finetuned_from") == cache.weights != record["weights"]:
        raise UserError(
            f"--run {run} has trained CLIP too, and the cache {cache.path} was made by CLIP as it was before: {extract_with(Path(run))}"
        )
    if record["weights"] != cache.weights or record["head"]["dimension"] != cache.dimension:
        raise UserError(
            f"--run {run} was trained on features of other CLIP weights ({record['weights'][:12]}..., D = {record['head']['dimension']}) "
            f"than the cache {cache.path} holds ({cache.weights[:12]}..., D = {cache.dimension}): use the cache of the same CLIP"
        )
    settings = dict(record["head"])
    head = make_head(settings.pop("head"), HeadConfig(**settings))
    try:
        head.load_state_dict(read_tensors(Path(run) / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"--run {run}: {WEIGHTS_FILE} is damaged or missing ({one_line(error)}): train it again") from error
    return head.to(device), {"run": run, **record}


def extract_with(run: Path) -> str:
    """How to make a cache of the CLIP that a run has trained, in words."""
    return f"run extract with --model local-dir:{run / CLIP_FOLDER} and another --cache, and use that"


def max_frames(parts: ClipParts) -> int:
    """So many frames learned matrices take: as many as the temporal encoder has positions."""
    return len(parts.tensors["positional_embedding"])


def check_fits(head: Head, split: Split) -> None:
    """Raises UserError where videos of the split are longer than the head's matrices or positions. Captions are cut when loaded."""
    assert head.most_words is None or int(split.texts.words.length_N.max()) <= head.most_words
    check_frames(head, int(split.videos.frames.length_N.max()), f"videos of split {split.name!r}")


def check_frames(head: Head, frames: int, which: str) -> None:
    """Raises UserError where videos (named by `which`) of up to so many frames do not fit the head's matrices or positions."""
    if head.FRAME_MATRICES and frames > head.config.max_frames:
        raise UserError(
            f"{which} have up to {frames} frames, the matrices of head {head.name} take {head.config.max_frames}: "
            f"use --max-frames {head.config.max_frames} or less"
        )
    if head.temporal is not None and frames > head.config.temporal_positions:
        raise UserError(
            f"{which} have up to {frames} frames, the temporal encoder has {head.config.temporal_positions} positions: "
            f"use --max-frames {head.config.temporal_positions} or less"
        )


def _read_record(run: Path) -> dict[str, Any]:
    if not (run / RUN_FILE).is_file():
        raise UserError(f"--run {run} is no finished run ({RUN_FILE} is missing): train one with python -m train_head --out {run}")
    try:
        record: dict[str, Any] = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{run / RUN_FILE} is damaged ({error}): train the run again") from error
    return record
