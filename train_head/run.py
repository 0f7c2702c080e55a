"""A run on disk: the head's weights as safetensors, and JSON that says what made it and which caches it fits."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from data.base.errors import UserError, not_as_written, one_line
from data.base.provenance import json_value
from data.base.version import require_known
from data.base.whole_files import write_json
from data.cache import ClipParts, FeatureCache
from data.compute.tensors import read_tensors, write_tensors
from train_head.heads import DEFAULT_EXECUTION, HEADS, Execution, Head, HeadConfig, make_head
from train_head.options import TrainOptions
from train_head.scoring.splits import Split
from train_head.training.checkpoint import CHECKPOINT_FILE

WEIGHTS_FILE = "head.safetensors"
RUN_FILE = "run.json"
LOG_FILE = "log.csv"
METRICS_FILE = "metrics.json"
"""Of results: what `python -m evaluate` writes last but for its report."""
TRAINED_ON_FILE = "trained-on.json"
"""The ids of the videos that a run was trained on. Splits may change after it: what it was trained on must not be taken for unseen."""
RESULTS_FOLDER = "results"
"""In the folder of a run of a sweep: its results."""
CLIP_FOLDER = "clip"
"""The CLIP of a run that has trained it too, in the form of open_clip's local-dir."""
ZERO_SHOT = "zero-shot:"
TRAINED_WITH = "trained_with"
"""In run.json and metrics.json: see `RunOptions`."""
OPTIONS_VERSION = 1
"""Goes up when an option of training changes its name or meaning."""


@dataclass(frozen=True)
class RunOptions:
    """What later commands read of the options of a run: --resume compares them, evaluation and search take `max_frames` from them.

    `values` are those of all fields of `TrainOptions`, as JSON has them; empty for a head that is not trained. The provenance beside it has
    the options too, and is for people.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, options: TrainOptions) -> "RunOptions":
        """Those of a run that these options train."""
        return cls({name: json_value(value) for name, value in asdict(options).items()})

    @classmethod
    def read(cls, record: Mapping[str, Any], file: object) -> "RunOptions":
        """Those in a run's `record`, read from `file`. Raises UserError where a newer version of this program wrote them."""
        if TRAINED_WITH not in record:
            # A run trained before version 1 kept them only in its provenance.
            return cls(record.get("provenance", {}).get("options", {}))
        require_known(record[TRAINED_WITH]["version"], OPTIONS_VERSION, f"the options recorded in {file}")
        return cls(record[TRAINED_WITH]["options"])

    def recorded(self) -> dict[str, Any]:
        """What a record holds under TRAINED_WITH."""
        return {"version": OPTIONS_VERSION, "options": dict(self.values)}

    @property
    def max_frames(self) -> int | None:
        """Frames used of each video, chosen evenly; None where all were."""
        frames: int | None = self.values.get("max_frames")
        return frames


def save_run(path: Path, head: Head, record: dict[str, Any], trained_on: Sequence[str] = ()) -> None:
    """Write the ids of the training videos, the weights, then run.json with the head's configuration and `record`; a run without run.json
    is not complete."""
    write_json(path / TRAINED_ON_FILE, list(trained_on))
    write_tensors(path / WEIGHTS_FILE, {name: value.contiguous() for name, value in head.state_dict().items()})
    write_json(path / RUN_FILE, {"head": {"head": head.name, **asdict(head.config)}, **record})


def load_head(run: str, cache: FeatureCache, device: torch.device, execution: Execution = DEFAULT_EXECUTION) -> tuple[Head, dict[str, Any]]:
    """The head of a run folder, or an untrained one for `zero-shot:HEAD`, with the run's record.

    Raises UserError where there is no such run, it is damaged, or it was trained for other CLIP weights than made the cache.
    """
    if run.startswith(ZERO_SHOT):
        name = run.removeprefix(ZERO_SHOT)
        if name not in HEADS or HEADS[name].TRAINED_ONLY:
            raise _unusable_head(run, name)
        parts = cache.clip_parts()
        config = HeadConfig(cache.dimension, int(cache.settings["max_words"]), parts.logit_scale, max_frames(parts))
        return make_head(name, config, execution).to(device), {"run": run}
    record = _read_record(run)
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
    head = make_head(settings.pop("head"), HeadConfig(**settings), execution)
    try:
        head.load_state_dict(read_tensors(Path(run) / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        line = f"--run {run}: {WEIGHTS_FILE} is damaged or missing ({one_line(error)}): train it again"
        raise not_as_written(Path(run) / WEIGHTS_FILE, error, line) from error
    return head.to(device), {"run": run, **record}


def trained_on(run: str) -> frozenset[str]:
    """The ids of the videos that a run was trained on; none for zero-shot, and for a run of before they were recorded.

    Raises UserError where the file is damaged.
    """
    path = Path(run) / TRAINED_ON_FILE
    if run.startswith(ZERO_SHOT) or not path.is_file():
        return frozenset()
    try:
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): train the run again") from error


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


def _unusable_head(run: str, name: str) -> UserError:
    """What to say of `--run zero-shot:NAME`, however it was spelt, where there is no such head or it must be trained first."""
    ready = [ZERO_SHOT + other for other, kind in HEADS.items() if not kind.TRAINED_ONLY]
    if name in HEADS and HEADS[name].TRAINED_ONLY:
        return UserError(
            f"--run {run}: head {name} scores nothing before training: train it with python -m train_head --head {name} and name its "
            f"folder, or use an untrained head: {', '.join(ready)}"
        )
    if name in HEADS:
        return UserError(f"--run {run}: no such folder; the head without training is --run {ZERO_SHOT}{name}")
    what = f"there is no head {name!r}" if name else "the name of a head is missing"
    return UserError(f"--run {run}: {what}: use {', '.join(ready)}, or the folder of a run")


def _no_run(run: str) -> UserError:
    """What to say of a --run that is no folder of a finished run, by what it seems to mean."""
    folder = Path(run)
    if not run.strip():
        return UserError("--run is empty: name the folder of a run, or zero-shot:HEAD")
    if not folder.exists():
        spelt = re.fullmatch(r"zero[-_ ]?shot[-_:=/. ]*(.*)", run, re.IGNORECASE)
        name = (spelt[1] if spelt else run).lower()
        if spelt or name in HEADS:
            return _unusable_head(run, name)
        return UserError(
            f"--run {run}: there is no such folder: name that of a run, train one with python -m train_head --out {run}, or use an "
            "untrained head such as zero-shot:glccl"
        )
    if folder.is_file() and (folder.parent / RUN_FILE).is_file():
        return UserError(f"--run {run} is a file of a run: name its folder, --run {folder.parent}")
    if (folder / CHECKPOINT_FILE).is_file():
        return UserError(f"--run {run} is a run that is not finished: finish it with the same train_head command and --resume")
    if (folder / METRICS_FILE).is_file():
        return UserError(f"--run {run} holds results of python -m evaluate, not a run: name the run that was evaluated")
    inside = sorted(path.parent for path in folder.glob(f"*/{RUN_FILE}")) if folder.is_dir() else []
    if inside:
        return UserError(f"--run {run} holds runs in folders of their own: name one, such as --run {inside[0]}")
    return UserError(f"--run {run} is no run ({RUN_FILE} is missing): name the folder that python -m train_head wrote")


def _read_record(run: str) -> dict[str, Any]:
    path = Path(run) / RUN_FILE
    if not run.strip() or not path.is_file():
        raise _no_run(run)
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): train the run again") from error
    return record
