"""The second stage: load the cache, train the head, keep the best epoch on validation."""

import csv
import hashlib
import io
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.base.device import budget_bytes, find_device
from data.base.errors import UserError, check_seed
from data.base.processes import ProcessGroup
from data.base.provenance import plain, provenance, write_atomically
from data.base.writable import make_folder, require_writable_folder
from data.cache import FeatureCache
from data.cli.options_file import OPTIONS_FILE, write_options
from data.datasets import preset_named
from data.metrics import Metrics
from train_head.compiling import compile_loops, compiling_said
from train_head.heads import ALL_SCORES, HEADS, Head, HeadConfig, chosen_scores, make_head
from train_head.options import TrainOptions
from train_head.run import LOG_FILE, RUN_FILE, check_fits, extract_with, max_frames, save_run
from train_head.scoring.pairs import evaluate_pairs
from train_head.scoring.splits import Split, load_split
from train_head.temporal import make_temporal
from train_head.training.checkpoint import CHECKPOINT_FILE, drop_checkpoint, load_checkpoint, save_checkpoint
from train_head.training.tensorboard_log import BOARD_FOLDER, Board, require_tensorboard
from train_head.training.trainer import Trainer, fitting_batch

FREE_TO_CHANGE = {
    *("cache", "out", "resume", "checkpoint_steps", "memory_budget", "tensorboard", "quiet", "json"),
    *("process_timeout", "model", "pretrained", "grad_checkpointing"),
}
"""Options that do not decide the result of a run; the cache is told by its digest, and so is CLIP."""
GO_ON = "run the same command again with --resume, with as many processes"
"""What to do where a process is lost: the order of captions of a checkpoint is shared by a given number."""
ONLY_FINETUNE = ("clip_lr", "freeze_layers", "grad_checkpointing", "model", "pretrained")
"""Options that say how CLIP is trained, and go with --finetune alone."""


@dataclass(frozen=True)
class Loaded:
    """What training reads: the captions and videos to train on, those that choose the epoch, and the cache they come from."""

    cache: FeatureCache
    train: Split
    select: Split


@dataclass
class _Progress:
    """What has come of a run so far."""

    epoch: int = 0
    """The epoch it is in; 0 is the figures before training."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of the log."""
    record: dict[str, Any] = field(default_factory=dict)
    """Of the best epoch, for run.json."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights of the best epoch."""


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
        _check_same(options, record["provenance"]["options"], options.out)
        _report(options, record)
        return options.out
    _check_out(options)
    with ProcessGroup.joined(device, options.process_timeout, in_step=True, remedy=GO_ON) as processes:
        if processes.rank == 0:
            require_writable_folder(options.out)
        loaded = load(options)
        processes.agree(_facts(options, loaded))
        batch = _shared_batch(options, loaded, processes.count)
        if processes.rank == 0:
            if not options.quiet:
                print(loaded.train.summary("train on"), loaded.select.summary("choose the epoch on"), sep="\n", file=sys.stderr)
            if not options.quiet or batch < options.batch_size:
                print(batches_line(options, loaded.train, batch), file=sys.stderr)
            if len(loaded.select.videos.ids) == 1:
                print(f"note: split {options.select_on} has 1 video, so all epochs are equally good: the first is kept", file=sys.stderr)
        try:
            with compiling_said(options.quiet or processes.rank > 0):
                head, record = fit(options, loaded, device, processes, keep=True)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"run the same command with --resume to go on from the last checkpoint in {options.out}") from stop
        if processes.rank == 0:
            save_run(options.out, head, record, loaded.train.videos.ids)
            drop_checkpoint(options.out)
            _report(options, record)
    return options.out


def load(options: TrainOptions) -> Loaded:
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
    return Loaded(cache, train_split, select_split)


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


def _shared_batch(options: TrainOptions, loaded: Loaded, processes: int) -> int:
    """The batch of all processes together. Raises UserError where they cannot share it evenly."""
    if options.batch_size % processes:
        raise UserError(f"--batch-size {options.batch_size} cannot be shared by {processes} processes evenly: use a multiple")
    videos = len(loaded.train.videos.ids)
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


def fit(options: TrainOptions, loaded: Loaded, device: torch.device, processes: ProcessGroup, keep: bool) -> tuple[Head, dict[str, Any]]:
    """Train; the head with the weights of the best epoch, and what run.json says of it.

    With `keep` the log and checkpoints are written to OUT, and training goes on from a checkpoint that is there.
    """
    torch.manual_seed(options.seed)
    head = build_head(options, loaded.cache).to(device)
    for split in (loaded.train, loaded.select):
        check_fits(head, split)
    if options.precision == "bf16":
        head.encoder_in_bf16, head.products = True, torch.bfloat16
    compile_loops(head, loaded.train)
    trainer = make_trainer(head, options, loaded, processes)
    identity = {
        "options": provenance_options(options),
        "cache_digest": loaded.cache.digest,
        "train_counts": loaded.train.counts,
        "data": _digest(loaded),
        "processes": processes.count,
    }
    begun = _go_on(options, trainer, identity) if keep else _Progress()
    epoch, rows, record, best = begun.epoch, begun.rows, begun.record, begun.best
    # Others must have read the checkpoint before it is replaced.
    processes.meet()

    def checkpoint() -> None:
        if keep and processes.rank == 0:
            board.flush()
            tensors, values = trainer.state()
            state = {**identity, "epoch": epoch, "rows": rows, "record": record, "trainer": values}
            name = f"{epoch}-{trainer.steps_done}"
            save_checkpoint(options.out, name, tensors | {f"best.{name}": value for name, value in best.items()}, state)
        # Others work on in step with the first: it must not be behind by what it writes.
        processes.meet()

    if keep:
        make_folder(options.out)
        if processes.rank == 0:
            write_options(options.out / OPTIONS_FILE, options, "python -m train_head")
    steps_done = max(0, epoch - 1) * trainer.steps_an_epoch + trainer.steps_done
    board = Board(options.out / BOARD_FOLDER if keep and options.tensorboard and processes.rank == 0 else None, steps_done)
    trainer.watch = board.write
    while epoch <= options.epochs:
        start = time.perf_counter()
        losses = trainer.run_epoch(epoch, checkpoint) if epoch else {}  # epoch 0: the figures before training
        seconds = time.perf_counter() - start
        if processes.rank == 0:
            select = trainer.validation(loaded.select)
            metrics = evaluate_pairs(head, select.texts, select.videos, select.answers, budget_bytes(options.memory_budget))
            rows.append({"epoch": epoch, **losses, **_flat(metrics), "seconds": round(seconds, 2)})
            if keep:
                _write_log(options.out / LOG_FILE, rows)
            board.write(epoch * trainer.steps_an_epoch, {f"{options.select_on}/{name}": value for name, value in _flat(metrics).items()})
            if epoch and (not record or metrics["text_to_video"]["R@1"] > record[options.select_on]["text_to_video"]["R@1"]):
                record = {
                    "weights": loaded.cache.weights,
                    "cache_digest": loaded.cache.digest,
                    "best_epoch": epoch,
                    "selected_by": f"text_to_video R@1 on {options.select_on}",
                    "selected_on": options.select_on,
                    "preset": loaded.train.preset,
                    options.select_on: metrics,
                    "train_counts": loaded.train.counts,
                    f"{options.select_on}_counts": select.counts,
                    "processes": processes.count,
                    "batch_size": trainer.batch_size,
                    "steps_an_epoch": trainer.steps_an_epoch,
                    "provenance": provenance(options),
                }
                best = {name: value.detach().clone() for name, value in trainer.weights().items()}
        epoch += 1
        if epoch <= options.epochs:
            checkpoint()
    board.close()
    if processes.rank == 0:
        trainer.load_weights(best)
        if keep:
            record |= trainer.save_encoder(options.out)
    return head, record


def make_trainer(head: Head, options: TrainOptions, loaded: Loaded, processes: ProcessGroup) -> Trainer:
    """What takes the steps: on cached features, or with CLIP. Raises UserError where that is not to be had."""
    if not options.finetune:
        return Trainer(head, options, loaded.train, processes)
    # Training on cached features needs no CLIP: it runs where open_clip and the weights are not.
    from train_head.training.finetune import FinetuneTrainer, load_trained
    from train_head.training.pixels import require_pixels

    require_pixels(loaded.cache, [*loaded.train.videos.ids, *loaded.select.videos.ids])
    clip = load_trained(options, loaded.cache, head.logit_scale.device)
    return FinetuneTrainer(head, options, loaded.train, processes, cache=loaded.cache, clip=clip)


def _go_on(options: TrainOptions, trainer: Trainer, identity: dict[str, Any]) -> _Progress:
    """Put the trainer where the checkpoint in OUT was written, and return what had come of the run by then."""
    found = load_checkpoint(options.out)
    if found is None:
        return _Progress()
    tensors, state = found
    _check_same(options, state["options"], options.out)
    words = {
        "cache_digest": f"the cache {options.cache} was extracted with other settings than the run's",
        "train_counts": "there are other training videos or captions than when it began",
        "data": "there are other videos or captions for training or for choosing the epoch than when it began",
        "processes": f"the number of processes was {state['processes']} and is {identity['processes']}",
    }
    # Checkpoints of before the data was recorded have only its counts.
    changed = [name for name in words if state.get(name, identity[name]) != identity[name]]
    differing = [words[name] for name in changed if name != "data" or "train_counts" not in changed]
    if differing:
        raise UserError(
            f"--resume cannot go on with the run in {options.out}: {' and '.join(differing)}; use what it was started with, or train anew "
            "with another --out"
        )
    trainer.load_state(tensors, state["trainer"])
    best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
    return _Progress(state["epoch"], state["rows"], state["record"], best)


def _digest(loaded: Loaded) -> str:
    """What is trained on and what chooses the epoch, by ids, captions and which belongs to which."""
    digest = hashlib.sha256()
    for split in (loaded.train, loaded.select):
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
    return {key: plain(value) for key, value in asdict(options).items()}


def _read_finished(out: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{out / RUN_FILE} is damaged ({error!r}): delete {out} and train again") from error
    return record


def _facts(options: TrainOptions, loaded: Loaded) -> dict[str, Any]:
    """What must be the same in all processes."""
    decisive = {f"--{name.replace('_', '-')}": value for name, value in provenance_options(options).items() if name not in FREE_TO_CHANGE}
    return decisive | {"the cache": loaded.cache.fingerprint([*loaded.train.videos.ids, *loaded.select.videos.ids])}


def _check_same(options: TrainOptions, before: dict[str, Any], out: Path) -> None:
    """Raises UserError, naming them, where options that decide the result are not those of the run in OUT."""
    differing = [
        f"--{name.replace('_', '-')} was {before.get(name)} and is {value}"
        for name, value in provenance_options(options).items()
        if name not in FREE_TO_CHANGE and before.get(name) != value
    ]
    if differing:
        raise UserError(f"--resume: the run in {out} was started with other options ({'; '.join(differing)}): use them, or another --out")


def _training_split(cache: FeatureCache, options: TrainOptions) -> str:
    """The training videos; where the epoch is chosen on test, those held out for choosing it are among them."""
    preset = preset_named(cache.listings.select(options.preset, options.name).preset)
    return "train+val" if options.select_on == "test" and preset is not None and preset.held_out else "train"


def build_head(options: TrainOptions, cache: FeatureCache) -> Head:
    """The head before its first step: matrices at the identity, the temporal encoder as asked for."""
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
    head = make_head(options.head, config)
    if head.temporal is not None and temporal is not None:
        head.temporal.load_state_dict(temporal.state_dict())
    return head


def check_options(options: TrainOptions) -> None:
    """Raises UserError for options that fit no cache."""
    if options.head not in HEADS:
        raise UserError(f"--head {options.head} is unknown: choose one of {', '.join(HEADS)}")
    offered = HEADS[options.head].NAMES
    if options.scores != ALL_SCORES and len(offered) == 1:
        raise UserError(f"--scores {options.scores}: head {options.head} has one score; leave the option out")
    chosen_scores(options.scores, offered)
    for name, least in {"batch_size": 2, "epochs": 1, "checkpoint_steps": 1}.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} must be at least {least}")
    for name in ("lr", "clip_lr", "weight_decay", "csc_weight"):
        if not 0 <= getattr(options, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} must be a number of at least 0")
    check_seed(options.seed)
    defaults = TrainOptions(options.cache, options.out)
    unread = [f"--{name.replace('_', '-')}" for name in ONLY_FINETUNE if getattr(options, name) != getattr(defaults, name)]
    if unread and not options.finetune:
        verb, those = ("go", "them") if len(unread) > 1 else ("goes", "it")
        raise UserError(f"{' and '.join(unread)} {verb} with --finetune: add --finetune, or leave {those} out")


def _flat(metrics: Metrics) -> dict[str, float]:
    flat = {f"{direction} {name}": value for direction in ("text_to_video", "video_to_text") for name, value in metrics[direction].items()}
    return flat | {"RSum": metrics["RSum"]}


def _write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[-1]), restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
