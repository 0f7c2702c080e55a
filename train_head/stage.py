"""The second stage: load the cache, train the head, keep the best epoch on validation."""

import csv
import hashlib
import io
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data.base.errors import UserError, check_seed
from data.base.provenance import json_value, provenance
from data.base.whole_files import write_atomically
from data.base.writable import make_folder, require_writable_folder
from data.cache import FeatureCache
from data.cli.meaning import AtLeast, Meaning, marks, options_with, options_without
from data.cli.options_file import OPTIONS_FILE, write_options
from data.compute.device import budget_bytes, find_device
from data.compute.processes import ProcessGroup
from data.datasets import preset_named
from data.metrics import DIRECTIONS, RECALL_SUM, Metrics
from train_head.compiling import compile_loops, compiling_said
from train_head.heads import ALL_SCORES, HEADS, Execution, Head, HeadConfig, chosen_scores, make_head
from train_head.options import TrainOptions
from train_head.run import LOG_FILE, RUN_FILE, TRAINED_WITH, RunOptions, check_fits, extract_with, max_frames, save_run
from train_head.scoring.pairs import evaluate_pairs
from train_head.scoring.splits import Split, load_split
from train_head.temporal import make_temporal
from train_head.training.checkpoint import CHECKPOINT_FILE, drop_checkpoint
from train_head.training.run_state import RunState
from train_head.training.tensorboard_log import TENSORBOARD_FOLDER, TensorBoardLog, require_tensorboard
from train_head.training.trainer import Trainer, fitting_batch

GO_ON = "run the same command again with --resume, with as many processes"
"""What to do where a process is lost: the order of captions of a checkpoint is shared by a given number."""


@dataclass(frozen=True)
class TrainingData:
    """What training reads: the captions and videos to train on, those that choose the epoch, and the cache they come from."""

    cache: FeatureCache
    train: Split
    select: Split


def train(options: TrainOptions) -> Path:
    """Train a head on the train split, keep the epoch with the best text-to-video R@1 on val (or test), and return the run's folder.

    Raises UserError for what the user can put right, among it features that give a loss that is not finite.
    """
    check_options(options)
    if options.tensorboard:
        require_tensorboard()
    device = find_device(options.device)
    if options.precision == "bf16" and device.type != "cuda":
        raise UserError("--precision bf16 is for CUDA: leave it out on the CPU")
    if (options.out / RUN_FILE).exists() and options.resume:
        record = _read_finished(options.out)
        _check_same(options, RunOptions.read(record, options.out / RUN_FILE).values, options.out)
        _report(options, record)
        return options.out
    _check_out(options)
    with ProcessGroup.joined(device, options.process_timeout, in_step=True, remedy=GO_ON) as processes:
        if processes.rank == 0:
            require_writable_folder(options.out)
        data = load(options)
        processes.agree(_facts(options, data))
        batch = _shared_batch(options, data, processes.world_size)
        if processes.rank == 0:
            _say_work(options, data, batch)
        try:
            with compiling_said(options.quiet or processes.rank > 0):
                head, record = fit(options, data, device, processes, keep=True)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"run the same command with --resume to go on from the last checkpoint in {options.out}") from stop
        if processes.rank == 0:
            save_run(options.out, head, record, data.train.videos.ids)
            drop_checkpoint(options.out)
            _report(options, record)
    return options.out


def _say_work(options: TrainOptions, data: TrainingData, batch: int) -> None:
    """Say on stderr what is trained on, and in what batches."""
    if not options.quiet:
        print(data.train.summary("train on"), data.select.summary("choose the epoch on"), sep="\n", file=sys.stderr)
    if not options.quiet or batch < options.batch_size:
        print(batches_line(options, data.train, batch), file=sys.stderr)
    if len(data.select.videos.ids) == 1:
        print(f"note: split {options.select_on} has 1 video, so all epochs are equally good: the first is kept", file=sys.stderr)


def load(options: TrainOptions) -> TrainingData:
    """The cache and its splits as these options use them. Raises UserError where they do not fit."""
    cache = FeatureCache(options.cache)
    budget = budget_bytes(options.memory_budget)
    train_split, select_split = (
        load_split(cache, name, options.preset, budget, options.max_frames, options.allow_missing, options.name)
        for name in (_training_split(cache, options), options.select_on)
    )
    if len(train_split.videos.ids) < 2:
        raise UserError(
            f"split {train_split.name!r} of the cache {cache.path} has 1 video with captions, and training tells at least 2 apart: add "
            "videos of that split to the annotations, and run extract again"
        )
    return TrainingData(cache, train_split, select_split)


def batches_line(options: TrainOptions, split: Split, batch: int) -> str:
    """What batches of so many captions come to, for people."""
    captions, videos = len(split.answers), len(split.videos.ids)
    steps = captions // batch
    line = f"batches of {batch:,} captions"
    if batch < options.batch_size:
        line += f" rather than the {options.batch_size:,} of --batch-size, for there are {videos:,} training videos"
    line += f": {_counted(steps, 'step')} an epoch, {steps * options.epochs:,} in all"
    left = captions - steps * batch
    return line + (f"; each epoch leaves out {left:,} of {captions:,} captions, drawn anew" if left else "")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _shared_batch(options: TrainOptions, data: TrainingData, processes: int) -> int:
    """The batch of all processes together. Raises UserError where they cannot share it evenly."""
    if options.batch_size % processes:
        raise UserError(f"--batch-size {options.batch_size} cannot be shared by {processes} processes evenly: use a multiple")
    videos = len(data.train.videos.ids)
    if videos < processes:
        raise UserError(f"{processes} processes cannot share batches of {videos} training videos: start {videos} or fewer")
    return fitting_batch(options.batch_size, videos, processes)


def _check_out(options: TrainOptions) -> None:
    """Raises UserError where OUT holds anything but what --resume goes on with."""
    out = options.out
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder")
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
    if not names or options.resume:
        return
    if RUN_FILE in names:
        raise UserError(f"--out {out} holds a finished run: name another folder, or delete {out} to train it again")
    if names & {CHECKPOINT_FILE, LOG_FILE, OPTIONS_FILE}:
        raise UserError(
            f"--out {out} holds an unfinished run: add --resume to go on with it, name another folder, or delete {out} to start again"
        )
    raise UserError(f"--out {out} holds other files, such as {min(names)}: name a new folder or an empty one")


def fit(
    options: TrainOptions, data: TrainingData, device: torch.device, processes: ProcessGroup, keep: bool
) -> tuple[Head, dict[str, Any]]:
    """Train; the head with the weights of the best epoch, and what run.json says of it.

    With `keep` the log and checkpoints are written to OUT, and training goes on from a checkpoint that is there. The first of several
    processes writes, validates, and returns the best epoch; the others return the head as it is after the last step.
    """
    torch.manual_seed(options.seed)
    head = build_head(options, data.cache).to(device)
    for split in (data.train, data.select):
        check_fits(head, split)
    compile_loops(head, data.train)
    trainer = make_trainer(head, options, data, processes)
    identity = _identity(options, data, processes)
    state = RunState.restore(options.out, trainer, partial(_check_identity, options, identity)) if keep else RunState()
    # Others must have read the checkpoint before it is replaced.
    processes.barrier()
    first = processes.rank == 0
    if keep:
        make_folder(options.out)
        if first:
            write_options(options.out / OPTIONS_FILE, options, "python -m train_head")
    scalars_folder = options.out / TENSORBOARD_FOLDER if keep and first and options.tensorboard else None
    steps_done = max(0, state.epoch - 1) * trainer.steps_an_epoch + trainer.steps_done
    with TensorBoardLog(scalars_folder, steps_done) as scalars:

        def checkpoint() -> None:
            if keep and first:
                scalars.flush()
                state.save(options.out, trainer, identity)
            # Others work on in step with the first: it must not be behind by what it writes.
            processes.barrier()

        while state.epoch <= options.epochs:
            start = time.perf_counter()
            losses = trainer.run_epoch(state.epoch, checkpoint, scalars.write) if state.epoch else {}
            seconds = time.perf_counter() - start
            if first:
                metrics = _end_epoch(state, options, data, trainer, losses, seconds)
                if keep:
                    _write_log(options.out / LOG_FILE, state.rows)
                scalars.write(state.epoch * trainer.steps_an_epoch, {f"{options.select_on}/{key}": value for key, value in metrics.items()})
            state.epoch += 1
            if state.epoch <= options.epochs:
                checkpoint()
    if first:
        trainer.load_weights(state.best)
        if keep:
            state.record |= trainer.save_encoder(options.out)
    return head, state.record


def _end_epoch(
    state: RunState, options: TrainOptions, data: TrainingData, trainer: Trainer, losses: dict[str, float], seconds: float
) -> dict[str, float]:
    """Measure the head on the split that chooses the epoch, add the row of the log, and keep the epoch if it is the best; the metrics."""
    select = trainer.validation(data.select)
    metrics = evaluate_pairs(trainer.head, select.texts, select.videos, select.answers, budget_bytes(options.memory_budget))
    state.rows.append({"epoch": state.epoch, **losses, **_flat(metrics), "seconds": round(seconds, 2)})
    if state.improved_by(metrics, options.select_on):
        state.keep_best(_record(state.epoch, options, data, trainer, select, metrics), trainer.weights())
    return _flat(metrics)


def _record(epoch: int, options: TrainOptions, data: TrainingData, trainer: Trainer, select: Split, metrics: Metrics) -> dict[str, Any]:
    """What run.json says of an epoch that is the best so far."""
    return {
        "weights": data.cache.weights,
        "cache_digest": data.cache.digest,
        "best_epoch": epoch,
        "selected_by": f"text_to_video R@1 on {options.select_on}",
        "selected_on": options.select_on,
        "preset": data.train.preset,
        options.select_on: metrics,
        "train_counts": data.train.counts,
        f"{options.select_on}_counts": select.counts,
        "processes": trainer.processes.world_size,
        "batch_size": trainer.batch_size,
        "steps_an_epoch": trainer.steps_an_epoch,
        TRAINED_WITH: RunOptions.of(options).recorded(),
        "provenance": provenance(options),
    }


def make_trainer(head: Head, options: TrainOptions, data: TrainingData, processes: ProcessGroup) -> Trainer:
    """What takes the steps: on cached features, or with CLIP. Raises UserError where that is not to be had."""
    if not options.finetune:
        return Trainer(head, options, data.train, processes)
    # Training on cached features needs no CLIP: it runs where open_clip and the weights are not.
    from train_head.training.finetune import FinetuneTrainer, load_trained
    from train_head.training.pixels import require_pixels

    require_pixels(data.cache, [*data.train.videos.ids, *data.select.videos.ids])
    clip = load_trained(options, data.cache, head.logit_scale.device)
    return FinetuneTrainer(head, options, data.train, processes, cache=data.cache, clip=clip)


def _identity(options: TrainOptions, data: TrainingData, processes: ProcessGroup) -> dict[str, Any]:
    """What a checkpoint says of its run: a resumed one must have the same."""
    return {
        "options": provenance_options(options),
        "cache_digest": data.cache.digest,
        "train_counts": data.train.counts,
        "data": _digest(data),
        "processes": processes.world_size,
    }


def _check_identity(options: TrainOptions, identity: dict[str, Any], before: dict[str, Any]) -> None:
    """Raises UserError where the checkpoint with the values `before` is of another run than `identity`."""
    _check_same(options, before["options"], options.out)
    words = {
        "cache_digest": f"the cache {options.cache} was extracted with other settings than the run's",
        "train_counts": "there are other training videos or captions than when it began",
        "data": "there are other videos or captions for training or for choosing the epoch than when it began",
        "processes": f"the number of processes was {before['processes']} and is {identity['processes']}",
    }
    # Checkpoints of before the data was recorded have only its counts.
    changed = [name for name in words if before.get(name, identity[name]) != identity[name]]
    differing = [words[name] for name in changed if name != "data" or "train_counts" not in changed]
    if differing:
        raise UserError(
            f"--resume cannot go on with the run in {options.out}: {' and '.join(differing)}; use what it was started with, or train anew "
            "with another --out"
        )


def _digest(data: TrainingData) -> str:
    """What is trained on and what chooses the epoch, by ids, captions and which belongs to which."""
    digest = hashlib.sha256()
    for split in (data.train, data.select):
        digest.update(json.dumps([list(split.videos.ids), list(split.texts.texts), [int(video) for video in split.answers]]).encode())
    return digest.hexdigest()


def _report(options: TrainOptions, record: dict[str, Any]) -> None:
    if options.json:
        keys = ("best_epoch", "selected_on", options.select_on, "train_counts", f"{options.select_on}_counts")
        # Runs of before it was recorded had the batch that was asked for.
        batch = record.get("batch_size", options.batch_size)
        print(json.dumps({"run": str(options.out), "batch_size": batch, **{key: record[key] for key in keys}}))
        return
    recall = record[options.select_on]["text_to_video"]["R@1"]
    print(
        f"{options.out}: trained on {record['train_counts']['videos_scored']:,} videos; epoch {record['best_epoch']} of {options.epochs} "
        f"is best on {options.select_on}, text to video R@1 {recall:.1f}"
    )
    if options.finetune:
        print(f"before evaluating, extract with the new CLIP: {extract_with(options.out)}")


def provenance_options(options: TrainOptions) -> dict[str, Any]:
    """The options as plain values."""
    return {key: json_value(value) for key, value in asdict(options).items()}


def deciding(options: TrainOptions, *, leave_out: Sequence[Meaning] = ()) -> dict[str, Any]:
    """The options that decide the result, as plain values; the cache and CLIP are told by their digests. Those that are marked with one of
    `leave_out` are left out too."""
    names = options_without(type(options), Meaning.FREE, *leave_out)
    return {name: json_value(getattr(options, name)) for name in names}


def _read_finished(out: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{out / RUN_FILE} is damaged ({error!r}): delete {out} and train again") from error
    return record


def _facts(options: TrainOptions, data: TrainingData) -> dict[str, Any]:
    """What must be the same in all processes."""
    decisive = {f"--{name.replace('_', '-')}": value for name, value in deciding(options).items()}
    return decisive | {"the cache": data.cache.fingerprint([*data.train.videos.ids, *data.select.videos.ids])}


def _check_same(options: TrainOptions, before: Mapping[str, Any], out: Path) -> None:
    """Raises UserError, naming them, where options that decide the result are not those of the run in OUT."""
    differing = [
        f"--{name.replace('_', '-')} was {before.get(name)} and is {value}"
        for name, value in deciding(options).items()
        if before.get(name) != value
    ]
    if differing:
        raise UserError(f"--resume: the run in {out} was started with other options ({'; '.join(differing)}): use them, or another --out")


def _training_split(cache: FeatureCache, options: TrainOptions) -> str:
    """The training videos; where the epoch is chosen on test, those held out for choosing it are among them."""
    preset = preset_named(cache.listings.select(options.preset, options.name).preset)
    return "train+val" if options.select_on == "test" and preset is not None and preset.held_out else "train"


def build_head(options: TrainOptions, cache: FeatureCache) -> Head:
    """The head before its first step: matrices at the identity, the temporal encoder as asked for, and both in --precision."""
    parts = cache.clip_parts()
    temporal = None if options.temporal == "none" else make_temporal(cache.dimension, parts, options.temporal_init)
    config = HeadConfig(
        dimension=cache.dimension,
        max_words=int(cache.settings["max_words"]),
        logit_scale=parts.logit_scale,
        max_frames=max_frames(parts),
        scores=options.scores,
        temporal=options.temporal,
        **({} if temporal is None else temporal.shape()),
    )
    lower = torch.bfloat16 if options.precision == "bf16" else None
    head = make_head(options.head, config, Execution(products=lower, temporal=lower))
    if head.temporal is not None and temporal is not None:
        head.temporal.load_state_dict(temporal.state_dict())
    return head


def check_options(options: TrainOptions) -> None:
    """Raises UserError for options that fit no cache."""
    if options.head not in HEADS:
        raise UserError(f"--head {options.head} is unknown: choose one of {', '.join(HEADS)}")
    offered = HEADS[options.head].offered(options.head)
    if options.scores != ALL_SCORES and len(offered) == 1:
        raise UserError(f"--scores {options.scores}: head {options.head} has one score; leave the option out")
    chosen_scores(options.scores, offered)
    for name, found in marks(type(options)).items():
        value = getattr(options, name)
        for least in (mark.value for mark in found if isinstance(mark, AtLeast)):
            if not least <= value < math.inf:
                number = "a number of " if isinstance(value, float) else ""
                raise UserError(f"--{name.replace('_', '-')} {value} must be {number}at least {least}")
    check_seed(options.seed)
    defaults = type(options)(options.cache, options.out)
    finetuning = options_with(type(options), Meaning.FINETUNING)
    unread = [f"--{name.replace('_', '-')}" for name in finetuning if getattr(options, name) != getattr(defaults, name)]
    if unread and not options.finetune:
        verb, those = ("go", "them") if len(unread) > 1 else ("goes", "it")
        raise UserError(f"{' and '.join(unread)} {verb} with --finetune: add --finetune, or leave {those} out")


def _flat(metrics: Metrics) -> dict[str, float]:
    flat = {f"{direction} {name}": value for direction in DIRECTIONS for name, value in metrics[direction].items()}
    return flat | {RECALL_SUM: metrics[RECALL_SUM]}


def _write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
