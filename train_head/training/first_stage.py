"""The first stage of training on hard negatives: the run of --candidates-run, and what it hands on."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data.base.errors import UserError
from data.cache import FeatureCache
from data.compute.device import budget_bytes
from train_head.heads import Head, head_class
from train_head.options import TrainOptions
from train_head.run import WEIGHTS_FILE, ZERO_SHOT, RunOptions, check_fits, load_head
from train_head.scoring.splits import Split, load_split


@dataclass(frozen=True)
class FirstRun:
    """The run of --candidates-run."""

    name: str
    """Its folder, or zero-shot:HEAD."""
    head: Head
    max_frames: int | None
    """Frames used of each video; None for all."""
    weights_sha256: str | None
    """The SHA-256 of its file of weights; None for an untrained head."""

    @classmethod
    def load(cls, name: str, cache: FeatureCache, device: torch.device) -> "FirstRun":
        """Raises UserError if there is no such run, or it does not fit the cache."""
        try:
            head, record = load_head(name, cache, device)
        except UserError as error:
            # The errors name --run, which is another option here.
            raise UserError(f"--candidates-run: {error}", error.listed, error.whole) from error
        weights = None if name.startswith(ZERO_SHOT) else hashlib.sha256((Path(name) / WEIGHTS_FILE).read_bytes()).hexdigest()
        return cls(name, head.requires_grad_(False), RunOptions.read(record, name).max_frames, weights)


@dataclass(frozen=True)
class FirstStage:
    """The first run, and both splits as its head reads them."""

    run: FirstRun
    train: Split
    select: Split

    @classmethod
    def load(cls, run: FirstRun, options: TrainOptions, cache: FeatureCache, train: Split, select: Split) -> "FirstStage":
        """`train` and `select` are the splits as the trained head reads them, shared where the first head reads the same of them.

        Raises UserError if a split does not fit the first head, or has too few videos for --hard-negatives.
        """
        negatives, videos = options.hard_negatives, len(train.videos.ids)
        assert negatives is not None
        if negatives >= videos:
            raise UserError(
                f"--hard-negatives {negatives}: there are {videos:,} training videos, and one of them is the caption's own: use "
                f"--hard-negatives {videos - 1} or less"
            )
        splits = [as_read(run, options, cache, split) for split in (train, select)]
        for split in splits:
            check_fits(run.head, split)
        return cls(run, *splits)


def as_read(run: FirstRun, options: TrainOptions, cache: FeatureCache, split: Split) -> Split:
    """The split as the first head reads it."""
    words, patches = run.head.most_words, run.head.READS_PATCHES
    same_words = words is None or int(split.texts.words.length_N.max()) <= words
    if run.max_frames == options.max_frames and same_words and (not patches or head_class(options.head).READS_PATCHES):
        return split if patches else replace(split, videos=replace(split.videos, patches=None))
    budget = budget_bytes(options.memory_budget)
    return load_split(cache, split.name, options.preset, budget, run.max_frames, options.allow_missing, options.name, words, patches)
