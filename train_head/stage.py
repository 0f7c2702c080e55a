"""The second stage: load the cache, train the head, keep the best epoch on validation.

Shape suffixes: A texts of a batch, B their videos (text a belongs to video a), S scores of a pair.
"""

import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, SequentialLR

from data.cache import FeatureCache
from data.datasets import preset_named
from data.device import budget_bytes, find_device
from data.errors import UserError
from data.metrics import Metrics
from data.progress import Progress
from data.provenance import provenance
from train_head.heads import HEADS, Head, HeadConfig, TextBatch, VideoBatch, make_head
from train_head.losses import contrastive_loss, csc_loss
from train_head.options import TrainOptions
from train_head.pairs import evaluate_pairs
from train_head.run import LOG_FILE, RUN_FILE, check_fits, save_run
from train_head.splits import Split, load_split
from train_head.temporal import make_temporal

WARM_UP = 0.1


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
    trainer = _Trainer(head, options, train_split)
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
        temporal=options.temporal,
        **({} if temporal is None else temporal.shape()),
    )
    head = make_head(config)
    if head.temporal is not None and temporal is not None:
        head.temporal.load_state_dict(temporal.state_dict())
    return head


@dataclass
class _Trainer:
    """Optimiser, schedule and order of the batches."""

    head: Head
    options: TrainOptions
    split: Split

    def __post_init__(self) -> None:
        options = self.options
        self.order = np.random.default_rng(options.seed)
        self.steps_an_epoch = len(self.split.answers) // options.batch_size
        matrices = [p for p in self.head.parameters() if p.ndim >= 2]
        others = [p for p in self.head.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), eps=1e-6)
        self.schedule = _schedule(self.optimiser, self.steps_an_epoch * options.epochs)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training captions, the last incomplete batch left out; mean losses."""
        options, device = self.options, self.head.logit_scale.device
        self.head.train()
        order = self.order.permutation(len(self.split.answers))
        sums = {"loss": 0.0, "contrastive": 0.0, "csc": 0.0}
        with Progress(f"epoch {epoch}/{options.epochs}", self.steps_an_epoch, "steps", options.quiet) as progress:
            for step in range(self.steps_an_epoch):
                texts = order[step * options.batch_size : (step + 1) * options.batch_size]
                scores_SAB = self.head.scores(
                    self.head.encode_texts(TextBatch.gather(self.split.texts, texts, device)),
                    self.head.encode_videos(VideoBatch.gather(self.split.videos, self.split.answers[texts], device)),
                )
                contrastive = contrastive_loss(scores_SAB.mean(dim=0))
                csc = csc_loss(scores_SAB, data=options.csc_data) if len(scores_SAB) > 1 else torch.zeros_like(contrastive)
                loss = contrastive + options.csc_weight * csc
                if not loss.isfinite():
                    videos = [self.split.videos.ids[i] for i in self.split.answers[texts]]
                    raise UserError(
                        f"the loss is {loss.item()} in epoch {epoch}, step {step + 1}: look at the features of videos "
                        f"{', '.join(videos[:5])}, ..., or lower --lr"
                    )
                self.optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
                self.optimiser.step()
                self.schedule.step()
                self.head.clamp_scale()
                for name, value in (("loss", loss), ("contrastive", contrastive), ("csc", csc)):
                    sums[name] += value.item()
                progress.update(note=f"loss {sums['loss'] / (step + 1):.3f}")
        return {name: value / self.steps_an_epoch for name, value in sums.items()}


def _schedule(optimiser: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Linear warm-up over the first tenth, then a cosine to zero."""
    warm_up = max(1, round(WARM_UP * steps))
    rise = LambdaLR(optimiser, lambda step: (step + 1) / warm_up)
    fall = CosineAnnealingLR(optimiser, T_max=max(1, steps - warm_up))
    return SequentialLR(optimiser, [rise, fall], milestones=[warm_up])


def _check(options: TrainOptions) -> None:
    if options.head not in HEADS:
        raise UserError(f"--head {options.head} is unknown: choose one of {', '.join(HEADS)}")
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
