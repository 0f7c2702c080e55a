"""The second stage: load the cache, train the head, keep the epoch that is best on validation."""

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from data.base.errors import UserError
from data.base.provenance import json_value, provenance
from data.base.writable import make_folder, require_writable_folder
from data.cache import FeatureCache
from data.cli.meaning import Meaning, filled, options_without
from data.cli.options_file import OPTIONS_FILE, write_options
from data.compute.device import budget_bytes, find_device
from data.compute.memory import in_use
from data.compute.processes import ProcessGroup
from data.datasets import preset_named
from data.metrics import DIRECTIONS, RECALL_SUM, Metrics
from train_head.checks import check_options
from train_head.compiling import announce_compiling, compile_loops
from train_head.heads import Execution, Head, HeadConfig, head_class, is_own, make_head
from train_head.options import TrainOptions
from train_head.run import (
    HEAD_SOURCE,
    LOG_FILE,
    RUN_FILE,
    TRAINED_WITH,
    RunOptions,
    check_fits,
    extract_with,
    frame_rows,
    patches_for,
    recorded_source,
    save_run,
    write_log,
)
from train_head.scoring.cost import check_cost, flops_a_pair
from train_head.scoring.splits import Split, load_split
from train_head.settle import has_blocks, padding_of, position_rows, settled, settled_like, start_lines, start_of
from train_head.temperatures import given_temperatures
from train_head.temporal import PositionedBlocks, check_rows, make_blocks
from train_head.training.checkpoint import CHECKPOINT_FILE, drop_checkpoint
from train_head.training.cost import say_step_cost
from train_head.training.first_stage import FirstRun, FirstStage
from train_head.training.hard_negatives import HardNegativeTrainer, few_candidates
from train_head.training.run_state import RunState
from train_head.training.tensorboard_log import TENSORBOARD_FOLDER, TensorBoardLog, require_tensorboard
from train_head.training.trainer import Trainer, fitting_batch

GO_ON = "run the same command again with --resume and the same number of processes"
"""The remedy for a lost process. A checkpoint's order of captions is only valid for its number of processes."""
FIRST_WEIGHTS = "first_stage_weights"
"""In a checkpoint: the SHA-256 of the weights of --candidates-run."""


@dataclass(frozen=True)
class TrainingData:
    """The split to train on, the split that selects the epoch, and the cache that holds both."""

    cache: FeatureCache
    train: Split
    select: Split
    first: FirstStage | None = None
    """The first stage of training on hard negatives."""


def train(options: TrainOptions) -> Path:
    """Train a head, keep the epoch with the best text-to-video R@1 on val (or test), and return the run's folder.

    Raises UserError for anything the user can fix, including features that give a loss that is not finite.
    """
    check_options(options)
    if options.tensorboard:
        require_tensorboard()
    device = find_device(options.device)
    if options.precision == "bf16" and device.type != "cuda":
        raise UserError(f"--precision bf16 needs CUDA, and this is --device {device.type}: leave it out")
    if (options.out / RUN_FILE).exists() and options.resume:
        record = _read_finished(options.out)
        options = settled_like(options, record)
        _check_same(options, RunOptions.read(record, options.out / RUN_FILE).values, options.out)
        _report(options, record)
        return options.out
    _check_out(options)
    with ProcessGroup.joined(device, options.process_timeout, in_step=True, remedy=GO_ON) as processes:
        if processes.rank == 0:
            require_writable_folder(options.out)
        options = settled(options, FeatureCache(options.cache))
        data = load(options)
        processes.agree(_facts(options, data))
        batch = _shared_batch(options, data, processes.world_size)
        if processes.rank == 0:
            _print_plan(options, data, batch)
        try:
            with announce_compiling(options.quiet or processes.rank > 0), in_use(batch_size=batch):
                head, record, _ = fit(options, data, device, processes, keep=True)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"run the same command with --resume to go on from the last checkpoint in {options.out}") from stop
        if processes.rank == 0:
            save_run(options.out, head, record, data.train.videos.ids)
            drop_checkpoint(options.out)
            _report(options, record)
    return options.out


def _print_plan(options: TrainOptions, data: TrainingData, batch: int) -> None:
    """Print on stderr how the head starts, the splits, and the batches."""
    for line in start_lines(options, data.cache, options.quiet):
        print(line, file=sys.stderr)
    if not options.quiet:
        print(data.train.summary("train on"), data.select.summary("choose the epoch on"), sep="\n", file=sys.stderr)
    if data.first is not None and not options.quiet:
        print(
            f"hard negatives: {options.hard_negatives:,} of the {options.candidates:,} best of {options.candidates_run} for every caption "
            f"and every video; the epoch is chosen by re-ranking its {options.candidates:,} best",
            file=sys.stderr,
        )
    if data.first is not None:
        assert options.candidates is not None
        if few := few_candidates(options.candidates, data.train, data.select):
            print(few, file=sys.stderr)
    if not options.quiet or batch < options.batch_size:
        print(batches_line(options, data.train, batch), file=sys.stderr)
    if len(data.select.videos.ids) == 1:
        print(f"note: split {options.select_on} has 1 video, so every epoch scores the same: the first is kept", file=sys.stderr)


def load(options: TrainOptions) -> TrainingData:
    """Open the cache and load both splits. Raises UserError if the cache does not fit the options."""
    cache = FeatureCache(options.cache)
    patches_for(options.head, cache)
    if is_own(options.head):
        # Made once for its checks: they take a moment, and loading the features may take minutes.
        build_head(options, cache)
    options = settled(options, cache)
    run = None if options.candidates_run is None else FirstRun.load(options.candidates_run, cache, find_device(options.device))
    budget, patches = budget_bytes(options.memory_budget), head_class(options.head).READS_PATCHES
    train_split, select_split = (
        load_split(cache, name, options.preset, budget, options.max_frames, options.allow_missing, options.name, patches=patches)
        for name in (training_split(cache, options), options.select_on)
    )
    if len(train_split.videos.ids) < 2:
        raise UserError(
            f"split {train_split.name!r} of the cache {cache.path} has 1 video with captions, and training needs at least 2: add "
            "videos of that split to the annotations, and run extract again"
        )
    first = None if run is None else FirstStage.load(run, options, cache, train_split, select_split)
    return TrainingData(cache, train_split, select_split, first)


def batches_line(options: TrainOptions, split: Split, batch: int) -> str:
    """One line for people: the batch size, the steps per epoch and in all, and the captions that each epoch leaves out."""
    captions, videos = len(split.answers), len(split.videos.ids)
    steps = captions // batch
    line = f"batches of {batch:,} captions"
    if batch < options.batch_size:
        line += f" rather than the {options.batch_size:,} of --batch-size, because there are only {videos:,} training videos"
    line += f": {_counted(steps, 'step')} per epoch, {steps * options.epochs:,} in all"
    left = captions - steps * batch
    return line + (f"; each epoch leaves out {left:,} of {captions:,} captions at random" if left else "")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _shared_batch(options: TrainOptions, data: TrainingData, processes: int) -> int:
    """The batch size over all processes. Raises UserError if they cannot share it evenly."""
    if options.batch_size % processes:
        raise UserError(
            f"--batch-size {options.batch_size} cannot be shared by {processes} processes evenly: use a multiple of {processes}"
        )
    videos = len(data.train.videos.ids)
    if videos < processes:
        raise UserError(f"{processes} processes cannot share batches of {videos} training videos: start {videos} or fewer")
    return fitting_batch(options.batch_size, videos, processes)


def _check_out(options: TrainOptions) -> None:
    """Raise UserError unless OUT is empty, or holds an unfinished run and --resume is given."""
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
            f"--out {out} holds an unfinished run: add --resume to continue it, name another folder, or delete {out} to start again"
        )
    raise UserError(f"--out {out} holds other files, such as {min(names)}: name a new folder or an empty one")


def fit(
    options: TrainOptions, data: TrainingData, device: torch.device, processes: ProcessGroup, keep: bool
) -> tuple[Head, dict[str, Any], list[dict[str, Any]]]:
    """Train, and return the head with the weights of its best epoch, the record for run.json, and the rows of log.csv.

    With `keep`, write the log and checkpoints to OUT, and continue from the checkpoint in OUT if there is one. Rank 0 writes, validates and
    returns the best epoch. The other ranks return the head after its last step.
    """
    options = settled(options, data.cache)
    torch.manual_seed(options.seed)
    head = build_head(options, data.cache).to(device)
    for split in (data.train, data.select):
        check_fits(head, split)
    compile_loops(head, data.train)
    trainer = make_trainer(head, options, data, processes)
    if keep and processes.rank == 0:
        pairs = trainer.pairs_a_step if isinstance(trainer, HardNegativeTrainer) else None
        say_step_cost(head, data.train, trainer.batch_size, trainer.steps_an_epoch * options.epochs, processes.world_size, pairs)
    identity = _identity(options, data, processes)
    state = RunState.restore(options.out, trainer, partial(_check_identity, options, identity)) if keep else RunState()
    first = processes.rank == 0
    times = options.epochs + 1 - state.epoch
    if isinstance(trainer, HardNegativeTrainer):
        trainer.check_costs(data.select, times)
    elif first:
        check_validation(options, data.select, head, times)
    trainer.prepare()
    # Every rank must have read the checkpoint before rank 0 replaces it.
    processes.barrier()
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
            # The ranks run in lockstep: none may start the next step while rank 0 still writes.
            processes.barrier()

        while state.epoch <= options.epochs:
            start = time.perf_counter()
            losses = trainer.run_epoch(state.epoch, checkpoint, scalars.write) if state.epoch else {}
            seconds = time.perf_counter() - start
            if first:
                metrics = _end_epoch(state, options, data, trainer, losses, seconds)
                if keep:
                    write_log(options.out / LOG_FILE, state.rows)
                scalars.write(state.epoch * trainer.steps_an_epoch, {f"{options.select_on}/{key}": value for key, value in metrics.items()})
            state.epoch += 1
            if state.epoch <= options.epochs:
                checkpoint()
    if first:
        trainer.load_weights(state.best)
        if keep:
            state.record |= trainer.save_encoder(options.out)
    return head, state.record, state.rows


def check_validation(options: TrainOptions, select: Split, head: Head, times: int) -> None:
    """Say what it takes to score all pairs of the validation split this many times, or raise UserError if that is too much."""
    texts, videos = len(select.answers), len(select.videos.ids)
    what = f"validation, {_counted(times, 'time')} {texts:,} x {videos:,} pairs,"
    flops = flops_a_pair(head, select) * texts * videos * times
    remedy = f"use fewer --epochs, or name fewer videos as split {select.name!r}"
    check_cost(head, select.texts, select.videos, what, flops, remedy, options.quiet)


def _end_epoch(
    state: RunState, options: TrainOptions, data: TrainingData, trainer: Trainer, losses: dict[str, float], seconds: float
) -> dict[str, float]:
    """Validate the epoch, append its row to the log, keep it if it is the best so far, and return its metrics."""
    select = trainer.validation(data.select)
    metrics = trainer.validation_metrics(select)
    state.rows.append({"epoch": state.epoch, **losses, **_flat(metrics), **trainer.log_columns(), "seconds": round(seconds, 2)})
    if state.improved_by(metrics, options.select_on):
        state.keep_best(_record(state.epoch, options, data, trainer, select, metrics), trainer.weights())
    return _flat(metrics)


def _record(epoch: int, options: TrainOptions, data: TrainingData, trainer: Trainer, select: Split, metrics: Metrics) -> dict[str, Any]:
    """The entries of run.json for the best epoch so far."""
    return {
        "weights": data.cache.weights,
        "cache_digest": data.cache.digest,
        "best_epoch": epoch,
        "selected_by": f"text_to_video R@1 on {options.select_on}{trainer.selected_by}",
        "selected_on": options.select_on,
        "preset": data.train.preset,
        options.select_on: metrics,
        "train_counts": data.train.counts,
        f"{options.select_on}_counts": select.counts,
        "processes": trainer.processes.world_size,
        "batch_size": trainer.batch_size,
        "steps_an_epoch": trainer.steps_an_epoch,
        "start": start_of(options, data.cache),
        TRAINED_WITH: RunOptions.of(options).recorded(),
        "provenance": provenance(options),
        **trainer.record(),
    }


def make_trainer(head: Head, options: TrainOptions, data: TrainingData, processes: ProcessGroup) -> Trainer:
    """A trainer on cached features, with --candidates-run one on hard negatives, or with --finetune one that trains CLIP too.

    Raises UserError if the cache lacks the pictures for --finetune, or its CLIP cannot be loaded; or if the head has losses that need all
    pairs of a batch.
    """
    if data.first is not None:
        if head.extra_loss_names:
            raise UserError(
                f"--candidates-run: the losses {', '.join(head.extra_loss_names)} of head {options.head} need all pairs of a batch: leave "
                "the option out"
            )
        return HardNegativeTrainer(head, options, data.train, processes, first=data.first)
    if not options.finetune:
        return Trainer(head, options, data.train, processes)
    # Imported here: training on cached features must run without open_clip.
    from train_head.training.finetune import FinetuneTrainer, load_trained
    from train_head.training.pixels import require_pixels

    require_pixels(data.cache, [*data.train.videos.ids, *data.select.videos.ids])
    clip = load_trained(options, data.cache, head.logit_scale.device)
    return FinetuneTrainer(head, options, data.train, processes, cache=data.cache, clip=clip)


def _identity(options: TrainOptions, data: TrainingData, processes: ProcessGroup) -> dict[str, Any]:
    """What identifies the run of a checkpoint. It must match on resume."""
    return {
        "options": provenance_options(options),
        "cache_digest": data.cache.digest,
        "train_counts": data.train.counts,
        "data": _digest(data),
        "patches": _patches_read(data),
        "processes": processes.world_size,
        HEAD_SOURCE: recorded_source(options.head).get(HEAD_SOURCE),
        FIRST_WEIGHTS: None if data.first is None else data.first.run.weights_sha256,
    }


def _patches_read(data: TrainingData) -> str | None:
    """The --tokens of the patch tokens that the head reads; None if it reads none."""
    if data.train.videos.patches is None:
        return None
    settings = data.cache.patch_settings
    assert settings is not None
    return f"{settings.option}, {settings.count} a frame"


def _check_identity(options: TrainOptions, identity: dict[str, Any], before: dict[str, Any]) -> None:
    """Raise UserError if the checkpoint's values `before` belong to a run other than `identity`."""
    _check_same(options, before["options"], options.out)
    descriptions = {
        "cache_digest": f"the cache {options.cache} was extracted with other settings than the run's",
        "train_counts": "the training videos or captions have changed since it began",
        "data": "the videos or captions for training or for choosing the epoch have changed since it began",
        "patches": f"the cache {options.cache} held --tokens {before.get('patches')} then, and {identity['patches']} now",
        "processes": f"the number of processes was {before['processes']} and is {identity['processes']}",
        HEAD_SOURCE: f"the source of head {options.head} has changed since it began",
        FIRST_WEIGHTS: f"the run {options.candidates_run} of --candidates-run has other weights than when it began",
    }
    # Old checkpoints have the counts alone.
    changed = [name for name in descriptions if before.get(name, identity[name]) != identity[name]]
    differing = [descriptions[name] for name in changed if name != "data" or "train_counts" not in changed]
    if differing:
        raise UserError(
            f"--resume cannot continue the run in {options.out}: {' and '.join(differing)}; use what it was started with, or train anew "
            "with another --out"
        )


def _digest(data: TrainingData) -> str:
    """A digest of both splits: their video ids, their captions, and the video of each caption."""
    digest = hashlib.sha256()
    for split in (data.train, data.select):
        digest.update(json.dumps([list(split.videos.ids), list(split.texts.texts), [int(video) for video in split.answers]]).encode())
    return digest.hexdigest()


def _report(options: TrainOptions, record: dict[str, Any]) -> None:
    if options.json:
        keys = ("best_epoch", "selected_on", options.select_on, "train_counts", f"{options.select_on}_counts")
        # Old runs do not record it. They used the batch size that was asked for.
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
    """The options as JSON values."""
    return {key: json_value(value) for key, value in asdict(options).items()}


def decisive_options(options: TrainOptions, *, leave_out: Sequence[Meaning] = ()) -> dict[str, Any]:
    """The options that decide the result, as JSON values, without those marked with one of `leave_out`.

    Paths of the cache and of CLIP are not among them: digests of their contents are compared instead.
    """
    names = options_without(type(options), Meaning.FREE, *leave_out)
    return {name: json_value(getattr(options, name)) for name in names}


def _read_finished(out: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{out / RUN_FILE} is damaged ({error!r}): delete {out} and train again") from error
    return record


def _facts(options: TrainOptions, data: TrainingData) -> dict[str, Any]:
    """What must be equal in all processes."""
    decisive = {f"--{name.replace('_', '-')}": value for name, value in decisive_options(options).items()}
    videos = [*data.train.videos.ids, *data.select.videos.ids]
    content = {"the cache": data.cache.fingerprint(videos, patches=data.train.videos.patches is not None)}
    if data.first is not None:
        content["the weights of --candidates-run"] = data.first.run.weights_sha256 or ""
    return decisive | content | {f"the source of head {options.head}": recorded_source(options.head)}


def _check_same(options: TrainOptions, before: Mapping[str, Any], out: Path) -> None:
    """Raise UserError, naming the options, if any that decides the result differs from the run in OUT."""
    # An option that the run does not record came later, and the run used its default.
    kind = type(options)
    known = filled(kind, decisive_options(TrainOptions(cache=options.cache, out=options.out)) | dict(before))
    differing = [
        f"--{name.replace('_', '-')} was {known[name]} and is {value}"
        for name, value in filled(kind, decisive_options(options)).items()
        if known[name] != value
    ]
    if differing:
        raise UserError(f"--resume: the run in {out} was started with other options ({'; '.join(differing)}): use them, or another --out")


def training_split(cache: FeatureCache, options: TrainOptions) -> str:
    """The name of the training split. With --select-on test it includes the videos held out for validation."""
    preset = preset_named(cache.listings.select(options.preset, options.name).preset)
    return "train+val" if options.select_on == "test" and preset is not None and preset.held_out else "train"


def build_head(options: TrainOptions, cache: FeatureCache) -> Head:
    """The head before its first step: matrices at the identity, Transformer blocks by --temporal-init, products in --precision."""
    options, parts = settled(options, cache), cache.clip_parts()
    frames = frame_rows(cache, parts, options.max_frames)
    blocks = None
    if has_blocks(options):
        check_rows(frames, "the temporal encoder" if options.temporal != "none" else f"head {options.head}")
        initial: Literal["clip", "random"] = "random" if options.temporal_init == "random" else "clip"
        blocks = make_blocks(PositionedBlocks, cache.dimension, parts, initial, position_rows(options, cache, parts))
    config = HeadConfig(
        dimension=cache.dimension,
        max_words=int(cache.settings["max_words"]),
        logit_scale=parts.logit_scale,
        max_frames=frames,
        scores=options.scores,
        temporal=options.temporal,
        patches=patches_for(options.head, cache),
        **padding_of(options, cache),
        **({} if blocks is None else blocks.shape()),
    )
    temperatures = given_temperatures(options.head, head_class(options.head).TEMPERATURES, {"tau": options.tau, "kappa": options.kappa})
    lower = torch.bfloat16 if options.precision == "bf16" else None
    head = make_head(options.head, config.at_temperatures(temperatures), Execution(products=lower, temporal=lower))
    if blocks is not None and head.started_blocks is not None:
        head.started_blocks.load_state_dict(blocks.state_dict())
    return head


def _flat(metrics: Metrics) -> dict[str, float]:
    flat = {f"{direction} {name}": value for direction in DIRECTIONS for name, value in metrics[direction].items()}
    return flat | {RECALL_SUM: metrics[RECALL_SUM]}
