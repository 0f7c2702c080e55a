"""A run on disk: the head's weights as safetensors, and JSON with its configuration, its provenance and the digest of its CLIP."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from data.base.errors import UserError, not_as_written, one_line
from data.base.progress import say
from data.base.provenance import json_value
from data.base.version import require_known
from data.base.whole_files import write_atomically, write_json
from data.cache import ClipParts, FeatureCache
from data.cache.features import TextFeatures
from data.compute.memory import raise_if_exhausted
from data.compute.tensors import read_tensors, write_tensors
from train_head.heads import (
    DEFAULT_EXECUTION,
    HEADS,
    Execution,
    Head,
    HeadConfig,
    head_class,
    is_own,
    make_head,
    source_file,
    source_sha256,
)
from train_head.options import TrainOptions
from train_head.scoring.splits import Split
from train_head.temperatures import KAPPA, TAU, given_temperatures
from train_head.temporal import clip_positions
from train_head.training.checkpoint import CHECKPOINT_FILE

WEIGHTS_FILE = "head.safetensors"
RUN_FILE = "run.json"
LOG_FILE = "log.csv"
METRICS_FILE = "metrics.json"
"""In a folder of results. `python -m evaluate` writes only its report after this file."""
TRAINED_ON_FILE = "trained-on.json"
"""The ids of the videos that a run was trained on. Splits may change later, but these videos must never count as unseen."""
RESULTS_FOLDER = "results"
"""The results of a sweep's run, inside the folder of the run."""
CLIP_FOLDER = "clip"
"""The CLIP that a run with --finetune trained, as a folder for open_clip's `local-dir:`."""
ZERO_SHOT = "zero-shot:"
HEAD_SOURCE = "head_source"
"""In run.json and metrics.json: the SHA-256 of the file of a head of one's own. Other heads are part of the recorded commit."""
TRAINED_WITH = "trained_with"
"""In run.json and metrics.json: see `RunOptions`."""
OPTIONS_VERSION = 1
"""Incremented when a training option changes its name or meaning."""


@dataclass(frozen=True)
class RunOptions:
    """The training options of a run, for other code to read: --resume compares them; evaluation and search take `max_frames` from them.

    `values` maps every field of `TrainOptions` to its JSON value; it is empty for an untrained head. The run's provenance lists the options
    too, but only for people.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, options: TrainOptions) -> "RunOptions":
        """From the options of `python -m train_head`."""
        return cls({name: json_value(value) for name, value in asdict(options).items()})

    @classmethod
    def read(cls, record: Mapping[str, Any], file: object) -> "RunOptions":
        """From the `record` of a run, which was read from `file`. Raises UserError if a newer version of this program wrote it."""
        if TRAINED_WITH not in record:
            # Before version 1 runs kept the options only in their provenance.
            return cls(record.get("provenance", {}).get("options", {}))
        require_known(record[TRAINED_WITH]["version"], OPTIONS_VERSION, f"the options recorded in {file}")
        return cls(record[TRAINED_WITH]["options"])

    def recorded(self) -> dict[str, Any]:
        """The value of TRAINED_WITH in a record."""
        return {"version": OPTIONS_VERSION, "options": dict(self.values)}

    @property
    def max_frames(self) -> int | None:
        """Frames used of each video, evenly spaced; None for all of them."""
        frames: int | None = self.values.get("max_frames")
        return frames


def save_run(path: Path, head: Head, record: dict[str, Any], trained_on: Sequence[str] = ()) -> None:
    """Write the ids of the training videos, the weights, and last run.json with the head's configuration and `record`.

    A folder without run.json is not a complete run.
    """
    write_json(path / TRAINED_ON_FILE, list(trained_on))
    # Cloned, because safetensors refuses tensors that share memory, as tied weights of a head of one's own do.
    weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in head.state_dict().items()}
    write_tensors(path / WEIGHTS_FILE, weights)
    write_json(path / RUN_FILE, {"head": {"head": head.name, **asdict(head.config)}, **recorded_source(head.name), **record})


def write_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write log.csv: a row for each epoch. The last row has all columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def recorded_source(head: str) -> dict[str, str]:
    """What to record of the source of a head: HEAD_SOURCE for a head of one's own, nothing for others."""
    return {HEAD_SOURCE: source_sha256(head_class(head))} if is_own(head) else {}


def load_head(
    run: str,
    cache: FeatureCache,
    device: torch.device,
    execution: Execution = DEFAULT_EXECUTION,
    *,
    max_frames: int | None = None,
    tau: float | None = None,
    kappa: float | None = None,
) -> tuple[Head, dict[str, Any]]:
    """Load the head of a run folder, or make an untrained one for `zero-shot:HEAD`; returns it with the run's record.

    An untrained head takes up to `max_frames` frames, or as many as a video of the cache has. `tau` and `kappa` replace the temperatures of
    the run, or the paper's for an untrained head; `other_temperatures` tells which differ.

    Raises UserError if the run does not exist, is damaged, or was trained on features of other CLIP weights than the cache's; or for a
    temperature that the head does not have.
    """
    given = {"tau": tau, "kappa": kappa}
    if run.startswith(ZERO_SHOT):
        name = run.removeprefix(ZERO_SHOT)
        if (name not in HEADS and not is_own(name)) or head_class(name).TRAINED_ONLY:
            raise _unusable_head(run, name)
        parts = cache.clip_parts()
        frames, patches = frame_rows(cache, parts, max_frames), patches_for(name, cache)
        config = HeadConfig(cache.dimension, int(cache.settings["max_words"]), parts.logit_scale, frames, patches=patches)
        config = config.at_temperatures(given_temperatures(name, head_class(name).TEMPERATURES, given))
        return make_head(name, config, execution).to(device), {"run": run}
    record = _read_record(run)
    if record.get("finetuned_from") == cache.weights != record["weights"]:
        raise UserError(
            f"--run {run} has trained CLIP too, but the cache {cache.path} was made by CLIP before that training: {extract_with(Path(run))}"
        )
    if record["weights"] != cache.weights or record["head"]["dimension"] != cache.dimension:
        raise UserError(
            f"--run {run} was trained on features of other CLIP weights ({record['weights'][:12]}..., D = {record['head']['dimension']}) "
            f"than the cache {cache.path} holds ({cache.weights[:12]}..., D = {cache.dimension}): use the cache of the same CLIP"
        )
    settings = dict(record["head"])
    name = settings.pop("head")
    if is_own(name):
        _check_source(run, name, record.get(HEAD_SOURCE))
    _check_patches(run, name, settings, cache)
    config = HeadConfig(**settings).at_temperatures(given_temperatures(name, head_class(name).TEMPERATURES, given))
    head = make_head(name, config, execution)
    try:
        head.load_state_dict(read_tensors(Path(run) / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise_if_exhausted(error)
        line = f"--run {run}: {WEIGHTS_FILE} is damaged or missing ({one_line(error)}): train it again"
        raise not_as_written(Path(run) / WEIGHTS_FILE, error, line) from error
    return head.to(device), {"run": run, **record}


def other_temperatures(head: Head, record: Mapping[str, Any]) -> dict[str, float]:
    """The temperatures that differ from those of the run, or from the paper's for an untrained head: by name, what the run has."""
    usual: dict[str, float] = {"tau": TAU, "kappa": KAPPA, **record.get("head", {})}
    return {name: usual[name] for name, value in head.temperatures().items() if value != usual[name]}


def temperature_line(head: Head, record: Mapping[str, Any]) -> str:
    """Which temperatures differ from the run's, in one line for people; empty if none does."""
    whose = "the run" if "head" in record else "the paper"
    changed = [f"{name} {head.temperatures()[name]:g} instead of {value:g}" for name, value in other_temperatures(head, record).items()]
    return f"{' and '.join(changed)}, which {whose} has" if changed else ""


def _check_source(run: str, name: str, recorded: str | None) -> None:
    """Say if the source of a head of one's own has changed since training. Raises UserError if it cannot be found."""
    try:
        kind = head_class(name)
    except UserError as error:
        raise UserError(f"--run {run} was trained with a head of its own: {error}", error.listed) from error
    if source_sha256(kind) != recorded:
        say(
            f"note: {source_file(kind)} has changed since the run {run} was trained (SHA-256 {str(recorded)[:12]}... then, "
            f"{source_sha256(kind)[:12]}... now): the scores may be others"
        )


def trained_on(run: str) -> frozenset[str]:
    """The ids of the videos that a run was trained on. Empty for zero-shot, and for old runs, which did not record them.

    Raises UserError if the file is damaged.
    """
    path = Path(run) / TRAINED_ON_FILE
    if run.startswith(ZERO_SHOT) or not path.is_file():
        return frozenset()
    try:
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): train the run again") from error


def extract_with(run: Path) -> str:
    """The remedy that tells the user how to make a cache with the CLIP of a run."""
    return f"run extract with --model local-dir:{run / CLIP_FOLDER} and another --cache, and use that"


def frames_of(cache: FeatureCache) -> int:
    """The number of frames of the longest video in the cache."""
    return max((place.stop - place.start for place in cache.places("videos").values()), default=0)


def frame_rows(cache: FeatureCache, parts: ClipParts, max_frames: int | None) -> int:
    """Rows of the position table and of matrices over frames: as many as CLIP has positions, or as frames are used if those are more.

    `max_frames`: the frames used of each video; None for all that the cache holds.
    """
    return max(clip_positions(parts), frames_of(cache) if max_frames is None else max_frames)


def patches_for(head: str, cache: FeatureCache) -> int:
    """The patch tokens of a frame that a head of this name reads: 0 if it reads none. Raises UserError if the cache has none."""
    if not head_class(head).READS_PATCHES:
        return 0
    if cache.patch_settings is None:
        raise UserError(f"head {head} reads patch tokens, and the cache {cache.path} has none: {cache.patches_remedy()}")
    least, count = head_class(head).LEAST_PATCHES, cache.patch_settings.count
    if count < least:
        raise UserError(
            f"head {head} chooses among the patch tokens of a frame and needs at least {least}, and the cache {cache.path} has {count}: "
            f"extract into another cache with --tokens patches or patches:K, where K is {least} or more"
        )
    return count


def _check_patches(run: str, head: str, settings: Mapping[str, Any], cache: FeatureCache) -> None:
    """Raise UserError if a run reads patch tokens and the cache has none, or another number of them for each frame."""
    here = patches_for(head, cache)
    if here != settings.get("patches", 0):
        raise UserError(
            f"--run {run} was trained on {settings.get('patches', 0):,} patch tokens of each frame, and the cache {cache.path} has "
            f"{here:,}: use the cache it was trained on, or train again"
        )


def check_fits(head: Head, split: Split) -> None:
    """Raise UserError if videos of the split have more frames than the head supports. Captions are truncated when loaded."""
    assert head.most_words is None or int(split.texts.words.length_N.max()) <= head.most_words
    check_words(head, split.texts, f"split {split.name!r}")
    check_frames(head, int(split.videos.frames.length_N.max()), f"videos of split {split.name!r}")


def check_words(head: Head, texts: TextFeatures, which: str) -> None:
    """Raise UserError if the head reads words and some texts have only a sentence feature. `which` names the texts in the message."""
    without = int((texts.words.length_N == 0).sum())
    if head.READS_WORDS and without:
        ready = [name for name, kind in HEADS.items() if not (kind.READS_WORDS or kind.READS_PATCHES)]
        raise UserError(
            f"{without:,} of {len(texts.texts):,} texts of {which} have a sentence feature but no tokens, which head {head.name} "
            f"reads: use head {' or '.join(ready)}, or import token features with --replace"
        )


def check_frames(head: Head, frames: int, which: str) -> None:
    """Raise UserError if the head does not support this many frames. `which` names the videos in the message."""
    for limit, most in head.frame_limits().items():
        if frames > most:
            raise UserError(f"{which} have up to {frames} frames, but {limit}: use --max-frames {most} or less")


def _unusable_head(run: str, name: str) -> UserError:
    """The error for a misspelt `--run zero-shot:NAME`, an unknown head, or a head that must be trained first."""
    ready = [ZERO_SHOT + other for other, kind in HEADS.items() if not kind.TRAINED_ONLY]
    if (name in HEADS or is_own(name)) and head_class(name).TRAINED_ONLY:
        return UserError(
            f"--run {run}: head {name} scores nothing before training: train it with python -m train_head --head {name} and name its "
            f"folder, or use an untrained head: {', '.join(ready)}"
        )
    if name in HEADS or is_own(name):
        return UserError(f"--run {run}: no such folder; the head without training is --run {ZERO_SHOT}{name}")
    what = f"there is no head {name!r}" if name else "the name of a head is missing"
    return UserError(f"--run {run}: {what}: use {', '.join(ready)}, or the folder of a run")


def _no_run(run: str) -> UserError:
    """The error for a --run that is not the folder of a finished run, worded by what the user seems to mean."""
    folder = Path(run)
    if not run.strip():
        return UserError("--run is empty: name the folder of a run, or zero-shot:HEAD")
    if not folder.exists():
        spelt = re.fullmatch(r"zero[-_ ]?shot[-_:=/. ]*(.*)", run, re.IGNORECASE)
        name = spelt[1] if spelt else run
        name = name if is_own(name) else name.lower()
        if spelt or name in HEADS:
            return _unusable_head(run, name)
        return UserError(
            f"--run {run}: there is no such folder: name the folder of a run, train one with python -m train_head --out {run}, or use an "
            "untrained head such as zero-shot:glccl"
        )
    if folder.is_file() and (folder.parent / RUN_FILE).is_file():
        return UserError(f"--run {run} is a file inside a run: name the run's folder, --run {folder.parent}")
    if (folder / CHECKPOINT_FILE).is_file():
        return UserError(f"--run {run} is an unfinished run: finish it with the same train_head command and --resume")
    if (folder / METRICS_FILE).is_file():
        return UserError(f"--run {run} holds results of python -m evaluate, not a run: name the run that was evaluated")
    inside = sorted(path.parent for path in folder.glob(f"*/{RUN_FILE}")) if folder.is_dir() else []
    if inside:
        return UserError(f"--run {run} is a folder of several runs: name one of them, such as --run {inside[0]}")
    return UserError(f"--run {run} is not a run ({RUN_FILE} is missing): name the folder that python -m train_head wrote")


def _read_record(run: str) -> dict[str, Any]:
    path = Path(run) / RUN_FILE
    if not run.strip() or not path.is_file():
        raise _no_run(run)
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): train the run again") from error
    return record
