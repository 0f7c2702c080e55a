"""The second stage: load the cache, train the head, keep the best epoch on validation."""

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from data.cache import FeatureCache
from data.datasets import preset_named
from data.device import budget_bytes, find_device
from data.errors import UserError
from data.metrics import Metrics
from data.provenance import provenance
from train_head.heads import ALL_SCORES, HEADS, Head, HeadConfig, chosen_scores, make_head
from train_head.options import TrainOptions
from train_head.pairs import evaluate_pairs
from train_head.run import LOG_FILE, RUN_FILE, check_fits, max_frames, save_run
from train_head.splits import load_split
from train_head.temporal import make_temporal
from train_head.trainer import Trainer


def train(options: TrainOptions) -> Path:
    """Train a head on the train split, keep the epoch with the best text-to-video R@1 on val (or test), and return the run's folder.

    Raises UserError for what the user can put right, among it features that give a loss that is not finite.
    """
    _check(options)
    device = find_device(options.device)
    cache = FeatureCache(options.cache)
    budget = budget_bytes(options.memory_budget)
    train_split, val_split = (
        load_split(cache, name, options.preset, budget, options.max_frames, options.allow_missing)
        for name in (_training_split(cache, options), options.select_on)
    )
    if not options.quiet:
        print(train_split.summary("train on"), val_split.summary("choose the epoch on"), sep="\n", file=sys.stderr)
    if len(train_split.answers) < options.batch_size:
        raise UserError(
            f"--batch-size {options.batch_size} is more than the {len(train_split.answers)} training captions: use a smaller one"
        )
    torch.manual_seed(options.seed)
    head = build_head(options, cache).to(device)
    for split in (train_split, val_split):
        check_fits(head, split)
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(head, options, train_split)
    best = -1.0
    rows: list[dict[str, float]] = []
    for epoch in range(options.epochs + 1):
        start = time.perf_counter()
        losses = trainer.run_epoch(epoch) if epoch else {}  # epoch 0: the figures before training
        seconds = time.perf_counter() - start
        metrics = evaluate_pairs(head, val_split.texts, val_split.videos, val_split.answers, budget)
        rows.append({"epoch": epoch, **losses, **_flat(metrics), "seconds": round(seconds, 2)})
        _write_log(options.out / LOG_FILE, rows)
        if epoch and metrics["text_to_video"]["R@1"] > best:
            best = metrics["text_to_video"]["R@1"]
            record: dict[str, Any] = {
                "weights": cache.weights,
                "cache_digest": cache.digest,
                "best_epoch": epoch,
                "selected_by": f"text_to_video R@1 on {options.select_on}",
                "selected_on": options.select_on,
                "preset": train_split.preset,
                options.select_on: metrics,
                "train_counts": train_split.counts,
                f"{options.select_on}_counts": val_split.counts,
                "provenance": provenance(options),
            }
            saved = {name: value.detach().clone() for name, value in head.state_dict().items()}
    head.load_state_dict(saved)
    save_run(options.out, head, record)
    if options.json:
        keys = ("best_epoch", "selected_on", options.select_on, "train_counts", f"{options.select_on}_counts")
        print(json.dumps({"run": str(options.out), **{key: record[key] for key in keys}}))
    else:
        recall = record[options.select_on]["text_to_video"]["R@1"]
        print(
            f"{options.out}: trained on {train_split.counts['videos_scored']:,} videos; epoch {record['best_epoch']} of {options.epochs} "
            f"is best on {options.select_on}, text to video R@1 {recall:.1f}"
        )
    return options.out


def _training_split(cache: FeatureCache, options: TrainOptions) -> str:
    """The training videos; where the epoch is chosen on test, those held out for choosing it are among them."""
    preset = preset_named(cache.preset(options.preset))
    return "train+val" if options.select_on == "test" and preset is not None and preset.held_out else "train"


def build_head(options: TrainOptions, cache: FeatureCache) -> Head:
    """The head before its first step: matrices at the identity, the temporal encoder as asked for."""
    parts = cache.clip_parts()
    temporal = None if options.temporal == "none" else make_temporal(cache.dimension, parts, options.temporal_init)
    config = HeadConfig(
        head=options.head,
        dimension=cache.dimension,
        max_words=int(cache.settings["max_words"]),
        logit_scale=parts.logit_scale,
        max_frames=max_frames(parts),
        scores=options.scores,
        temporal=options.temporal,
        **({} if temporal is None else temporal.shape()),
    )
    head = make_head(config)
    if head.temporal is not None and temporal is not None:
        head.temporal.load_state_dict(temporal.state_dict())
    return head


def _check(options: TrainOptions) -> None:
    if options.head not in HEADS:
        raise UserError(f"--head {options.head} is unknown: choose one of {', '.join(HEADS)}")
    offered = HEADS[options.head].NAMES
    if options.scores != ALL_SCORES and len(offered) == 1:
        raise UserError(f"--scores {options.scores}: head {options.head} has one score; leave the option out")
    chosen_scores(options.scores, offered)
    if options.batch_size < 2 or options.epochs < 1:
        raise UserError("--batch-size must be at least 2 and --epochs at least 1")
    if (options.out / RUN_FILE).exists():
        raise UserError(f"--out {options.out} holds a run already: name another folder, or delete it first")


def _flat(metrics: Metrics) -> dict[str, float]:
    flat = {f"{direction} {name}": value for direction in ("text_to_video", "video_to_text") for name, value in metrics[direction].items()}
    return flat | {"RSum": metrics["RSum"]}


def _write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(rows[-1])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
