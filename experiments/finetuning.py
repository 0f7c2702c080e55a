"""Fine-tuning against the frozen CLIP on the demo set: `python -m experiments.finetuning --cache CACHE --videos DIR --annotations DIR`.

CACHE was extracted with --store-pixels. For every seed a head is trained on its features, and one together with CLIP; each fine-tuned CLIP
extracts a cache of its own, and both sides are measured on the test split from their caches. Epochs and the learning rate of CLIP are
chosen on the validation split. The difference comes with its interval, from a bootstrap over videos (with their captions) and seeds. What
is done is not done again. The last line is JSON.

Shape suffixes: S seeds, A captions, B videos, Q queries, K the recalls at 1, 5 and 10, N draws.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import extract
import train_head
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import require_writable_folder
from data.cache import FeatureCache
from data.cli.command import run_command
from data.cli.meaning import DeviceName
from data.compute.device import budget_bytes, find_device
from data.metrics import RankCounter, Ranks
from evaluate.bootstrap import limits, recalls
from extract import ExtractOptions
from train_head.checks import check_options
from train_head.options import TrainOptions
from train_head.run import CLIP_FOLDER, LOG_FILE, RUN_FILE, load_head
from train_head.scoring.pairs import RankedScores, score_all_pairs
from train_head.scoring.splits import load_split
from train_head.training.pixels import require_pixels

ROOT = Path(__file__).parent.parent
FIGURES = ("R@1", "RSum")


@dataclass(frozen=True)
class FinetuningOptions:
    """Compare heads on a frozen CLIP with heads trained together with CLIP, on the test split of the demo set."""

    cache: Path = ROOT / "runs" / "finetuning" / "cache"
    """Cache of the demo set with pictures (extract --store-pixels)."""
    videos: Path = ROOT / "runs" / "demo" / "videos"
    """Folder of the demo set's videos."""
    annotations: Path = ROOT / "runs" / "demo" / "annotations"
    """Folder of its annotations."""
    out: Path = ROOT / "runs" / "finetuning"
    """Folder for runs, caches and finetuning.json."""
    seeds: int = 5
    """Seeds 0, 1, ... of both sides."""
    clip_lrs: str = "1e-6,1e-5,1e-4"
    """Learning rates of CLIP to choose from, separated by commas."""
    choosing_seeds: int = 1
    """The learning rate is chosen on this many of the seeds, the first ones."""
    epochs: int = 5
    """Passes over the training captions."""
    lr: float = 1e-3
    """Largest learning rate of the head."""
    batch_size: int = 128
    """Captions per step."""
    max_frames: int | None = None
    """Frames used of each video. Default: all that are cached."""
    draws: int = 10_000
    """Draws of the bootstrap."""
    device: DeviceName = "auto"
    """Where to train and extract."""


@dataclass(frozen=True)
class Measured:
    """The ranks of the test split's captions and videos."""

    texts: Ranks
    videos: Ranks
    owner_A: NDArray[np.int64]
    """The place of each caption's video among the queries of `videos`."""


def main(options: FinetuningOptions) -> Path:
    """Train what is missing, measure, print the comparison and write OUT/finetuning.json; returns its path."""
    rates, shared, seeds = _rates(options.clip_lrs), _shared(options), range(options.seeds)
    _check(options, shared, rates)
    frozen = [train_head.main(replace(shared, seed=seed, out=options.out / f"frozen-seed{seed}")) for seed in seeds]

    def tune(rate: float, seed: int) -> Path:
        return train_head.main(replace(shared, finetune=True, clip_lr=rate, seed=seed, out=options.out / f"tuned-{rate:g}-seed{seed}"))

    on_val = {rate: [_chosen_by(tune(rate, seed))["RSum"] for seed in range(options.choosing_seeds)] for rate in rates}
    rate = max(rates, key=lambda rate: statistics.mean(on_val[rate]))
    print(f"RSum on val by learning rate of CLIP: {on_val}; chosen: {rate:g}", file=sys.stderr)
    tuned = [tune(rate, seed) for seed in seeds]
    pairs = [
        (measured(run, options.cache, options), measured(other, _extract(other, options), options))
        for run, other in zip(frozen, tuned, strict=True)
    ]
    figures = {"frozen": [figures_of(side) for side, _ in pairs], "fine-tuned": [figures_of(side) for _, side in pairs]}
    differences = {name: difference_of(pairs, name, options.draws) for name in FIGURES}
    _print(figures, differences)
    result = {
        "clip_lr": rate,
        "val RSum by clip_lr": {f"{rate:g}": values for rate, values in on_val.items()},
        "best epochs": {name: [_record(run)["best_epoch"] for run in runs] for name, runs in (("frozen", frozen), ("fine-tuned", tuned))},
        "training seconds": {name: [_seconds(run) for run in runs] for name, runs in (("frozen", frozen), ("fine-tuned", tuned))},
        "test": figures,
        "difference": differences,
    }
    write_json(options.out / "finetuning.json", {**result, "provenance": provenance(options)})
    print(json.dumps(result))
    return options.out / "finetuning.json"


def _shared(options: FinetuningOptions) -> TrainOptions:
    """The options of every run."""
    return TrainOptions(
        cache=options.cache,
        out=options.out,
        resume=True,
        max_frames=options.max_frames,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        device=options.device,
    )


def _check(options: FinetuningOptions, shared: TrainOptions, rates: Sequence[float]) -> None:
    """Raise UserError for what would else stop the last steps, after hours of training."""
    for name, value in (("seeds", options.seeds), ("choosing-seeds", options.choosing_seeds), ("draws", options.draws)):
        if value < 1:
            raise UserError(f"--{name} {value} must be at least 1")
    if options.choosing_seeds > options.seeds:
        raise UserError(f"--choosing-seeds {options.choosing_seeds} must be at most --seeds, {options.seeds}")
    for rate in rates:
        check_options(replace(shared, finetune=True, clip_lr=rate))
    require_writable_folder(options.out)
    for option, folder in (("--videos", options.videos), ("--annotations", options.annotations)):
        if not folder.is_dir():
            raise UserError(f"{option} {folder} is not there: name that of the demo set (python -m demo.generate makes it)")
    cache = FeatureCache(options.cache)
    videos = cache.listings.select().videos
    require_pixels(cache, videos[videos["split"].isin(["train", "val"]) & ~videos["failed"]]["video_id"].tolist())


def _rates(given: str) -> list[float]:
    try:
        return [float(text) for text in given.split(",")]
    except ValueError as error:
        raise UserError(f"--clip-lrs {given} must be numbers, separated by commas") from error


def _record(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    return record


def _chosen_by(run: Path) -> dict[str, Any]:
    """The figures on the validation split of a run's best epoch."""
    metrics: dict[str, Any] = _record(run)["val"]
    return metrics


def _seconds(run: Path) -> float:
    """Seconds of a run's steps, without its evaluations."""
    return float(pd.read_csv(run / LOG_FILE)["seconds"].sum())


def _extract(run: Path, options: FinetuningOptions) -> Path:
    """The cache that a run's CLIP makes of the videos, as the first one was made."""
    made = FeatureCache(options.cache).settings
    return extract.main(
        ExtractOptions(
            videos=options.videos,
            annotations=options.annotations,
            dataset="demo",
            cache=options.out / f"cache-{run.name}",
            model=f"local-dir:{run / CLIP_FOLDER}",
            fps=made["fps"],
            max_frames=made["max_frames"],
            max_words=made["max_words"],
            dtype=made["dtype"],
            device=options.device,
        )
    )


def measured(run: Path, path: Path, options: FinetuningOptions) -> Measured:
    """The ranks of the test split, from the run and the cache of its CLIP."""
    cache = FeatureCache(path)
    head, _ = load_head(str(run), cache, find_device(options.device))
    split = load_split(cache, "test", None, budget_bytes(None), options.max_frames)
    counter = RankCounter(split.answers, len(split.videos.ids))
    score_all_pairs(head, split.texts, split.videos, split.answers, [RankedScores(counter)], budget_bytes(None))
    texts, videos = counter.ranks()
    return Measured(texts, videos, np.searchsorted(videos.query_Q, split.answers[texts.query_Q]))


def figures_of(side: Measured) -> dict[str, float]:
    """Text-to-video R@1 and RSum in percent."""
    once = np.ones((1, len(side.videos.query_Q)))
    return {name: float(_drawn(side, once, name)[0]) for name in FIGURES}


def _drawn(side: Measured, weight_NB: NDArray[np.float64], figure: str) -> NDArray[np.float64]:
    """A figure [N] on draws of the test videos, each with its captions; what they are ranked among stays the whole split."""
    text_NK = recalls(side.texts, weight_NB[:, side.owner_A])
    if figure == "R@1":
        return text_NK[:, 0]
    return np.asarray(text_NK.sum(axis=1) + recalls(side.videos, weight_NB).sum(axis=1))


def difference_of(pairs: Sequence[tuple[Measured, Measured]], figure: str, draws: int) -> dict[str, float]:
    """Fine-tuned less frozen: the mean over seeds, and the 95% interval of it by a paired bootstrap.

    A draw takes as many seeds and videos as there are, with replacement, the same videos for both sides of all seeds. (Where
    `evaluate.compare` draws queries alone: its seeds are those at hand.)
    """
    rng = np.random.default_rng(0)
    videos = len(pairs[0][0].videos.query_Q)
    drawn = []
    for start in range(0, draws, 100):
        count = min(100, draws - start)
        video_NB = rng.integers(videos, size=(count, videos))
        weight_NB = np.stack([np.bincount(video_B, minlength=videos) for video_B in video_NB]).astype(np.float64)
        of_seed_SN = np.stack([_drawn(tuned, weight_NB, figure) - _drawn(frozen, weight_NB, figure) for frozen, tuned in pairs])
        seed_NS = rng.integers(len(pairs), size=(count, len(pairs)))
        drawn.append(np.take_along_axis(of_seed_SN.T, seed_NS, axis=1).mean(axis=1))
    low, high = limits(np.concatenate(drawn))
    mean = statistics.mean(figures_of(tuned)[figure] - figures_of(frozen)[figure] for frozen, tuned in pairs)
    return {"mean": mean, "low": low, "high": high}


def _print(figures: dict[str, list[dict[str, float]]], differences: dict[str, dict[str, float]]) -> None:
    """The comparison as a table of Markdown: mean and standard deviation over seeds, and the difference with its interval."""
    print(f"| test | {' | '.join(figures)} | difference |")
    print("| --- " * (len(figures) + 2) + "|")
    for figure in FIGURES:
        values = [[of_seed[figure] for of_seed in side] for side in figures.values()]
        cells = [f"{statistics.mean(side):.1f} ± {statistics.stdev(side) if len(side) > 1 else 0.0:.1f}" for side in values]
        difference = differences[figure]
        print(f"| {figure} | {' | '.join(cells)} | {difference['mean']:+.1f} [{difference['low']:+.1f}, {difference['high']:+.1f}] |")


if __name__ == "__main__":
    run_command(FinetuningOptions, main, prog="python -m experiments.finetuning")
