"""Training at MSR-VTT's size: steps a second, a whole run, and the data path's share of a step: `python -m benchmarks.training`.

A cache of 9,000 videos and 180,000 captions is written as extraction writes one, with random features and caption lengths drawn from
1k-A; then steps of training are timed, the data path (gathering features into batches) apart. The time of a whole run is that of its
steps, as measured; with --whole it is run. The last line is JSON.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.scoring import ROOT, caption_lengths
from data.cache import ClipParts, FeatureCache, TextEntry, VideoEntry
from data.command import run_command
from data.device import budget_bytes, find_device
from data.provenance import provenance, write_json
from train_head.options import TrainOptions
from train_head.splits import Split, load_split
from train_head.stage import build_head
from train_head.trainer import Trainer

DIMENSION = 512
FRAMES = 12
CAPTIONS_A_VIDEO = 20
BATCH = 128
EPOCHS = 5
ENTRIES_A_PART = 2000


@dataclass(frozen=True)
class TrainingOptions:
    """Measure steps of training on a synthetic cache of MSR-VTT's size."""

    videos: int = 9000
    """Training videos, each with 20 captions and 12 frames."""
    steps: int = 60
    """Steps timed of each kind, after ten that are not."""
    whole: bool = False
    """Run all five epochs as well, with the temporal encoder."""
    device: str = "auto"
    """Where to train: auto, cpu or cuda."""
    annotations: Path = ROOT.parent / "shared" / "annotations"
    """Folder with msrvtt/MSRVTT_JSFUSION_test.csv and didemo/, for caption lengths."""
    out: Path = ROOT / "runs" / "benchmarks" / "training.json"
    """File for the figures."""


def write_cache(path: Path, videos: int, length_A: list[int]) -> FeatureCache:
    """A cache of random features, in parts as extraction writes them."""
    rng = np.random.default_rng(0)

    def features(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal((*shape, DIMENSION), dtype=np.float32) * np.float32(0.44)

    # The tensors that a temporal encoder starts from.
    blocks = {"positional_embedding": features(77) * np.float32(0.01)}
    shapes = {
        "attn.in_proj_weight": (3 * DIMENSION, DIMENSION),
        "attn.in_proj_bias": (3 * DIMENSION,),
        "attn.out_proj.weight": (DIMENSION, DIMENSION),
        "attn.out_proj.bias": (DIMENSION,),
        "mlp.c_fc.weight": (4 * DIMENSION, DIMENSION),
        "mlp.c_fc.bias": (4 * DIMENSION,),
        "mlp.c_proj.weight": (DIMENSION, 4 * DIMENSION),
        "mlp.c_proj.bias": (DIMENSION,),
    }
    for block in range(4):
        for name, shape in shapes.items():
            blocks[f"blocks.{block}.{name}"] = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        for norm in ("ln_1", "ln_2"):
            blocks[f"blocks.{block}.{norm}.weight"] = np.ones(DIMENSION, dtype=np.float32)
            blocks[f"blocks.{block}.{norm}.bias"] = np.zeros(DIMENSION, dtype=np.float32)
    settings = {"weights": "0" * 64, "max_words": 32, "max_frames": FRAMES, "dtype": "float16", "dimension": DIMENSION}
    cache = FeatureCache.create(path, settings, ClipParts(blocks, 100.0, 8, "QuickGELU"), {})
    ids = [f"video{i}" for i in range(videos)]
    for first in range(0, videos, ENTRIES_A_PART):
        part = ids[first : first + ENTRIES_A_PART]
        cache.write_videos([VideoEntry(video_id, features(FRAMES), np.arange(FRAMES, dtype=np.float64), 0, 0) for video_id in part])
    captions = [f"caption {i}" for i in range(videos * CAPTIONS_A_VIDEO)]
    length = rng.choice(length_A, len(captions))
    for first in range(0, len(captions), 10 * ENTRIES_A_PART):
        members = range(first, min(first + 10 * ENTRIES_A_PART, len(captions)))
        cache.write_texts([TextEntry(captions[i], features(int(length[i])), features()) for i in members])
    cache.write_table("table", pd.DataFrame({"video_id": np.repeat(ids, CAPTIONS_A_VIDEO), "caption": captions, "split": "train"}))
    return cache


def measure(cache: FeatureCache, split: Split, options: TrainingOptions, temporal: bool) -> dict[str, float]:
    """Median seconds of a step and of its data path, and what follows for a whole run."""
    trainer = make_trainer(cache, split, options, temporal)
    batches = cycle(len(split.answers))
    step, path = [], []
    for turn in range(10 + options.steps):
        texts = next(batches)
        start = clock(trainer.device)
        trainer.batches(texts)
        middle = clock(trainer.device)
        trainer.step(texts)
        if turn >= 10:
            path.append(middle - start)
            step.append(clock(trainer.device) - middle)
    seconds = statistics.median(step)
    run = seconds * trainer.steps_an_epoch * EPOCHS
    return {
        "steps a second": 1 / seconds,
        "data path, share of a step": statistics.median(path) / seconds,
        "whole run, seconds, from its steps": run,
    }


def make_trainer(cache: FeatureCache, split: Split, options: TrainingOptions, temporal: bool) -> Trainer:
    """What `train_head` trains with, at the published settings."""
    train = TrainOptions(
        cache=cache.path,
        out=cache.path / "run",
        temporal="seq-transf" if temporal else "none",
        batch_size=BATCH,
        epochs=EPOCHS,
        quiet=False,
    )
    torch.manual_seed(0)
    return Trainer(build_head(train, cache).to(find_device(options.device)), train, split)


def cycle(captions: int) -> Iterator[NDArray[np.int64]]:
    """Random batches without end."""
    rng = np.random.default_rng(0)
    while True:
        yield rng.choice(captions, BATCH, replace=False)


def clock(device: torch.device) -> float:
    """Seconds, when all work so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main(options: TrainingOptions) -> Path:
    """Measure, print the figures and write them to OUT."""
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cache = write_cache(Path(folder) / "cache", options.videos, caption_lengths(options.annotations)[0])
        print(f"cache written in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        start = time.perf_counter()
        split = load_split(FeatureCache(cache.path), "train", None, budget_bytes(None))
        figures["loading"] = {"seconds to open and load the cache": time.perf_counter() - start}
        for name, temporal in (("no temporal encoder", False), ("temporal encoder", True)):
            figures[name] = measure(cache, split, options, temporal)
        if options.whole:
            trainer = make_trainer(cache, split, options, temporal=True)
            start = clock(trainer.device)
            for epoch in range(1, EPOCHS + 1):
                trainer.run_epoch(epoch)
            figures["whole run"] = {"seconds of five epochs, temporal encoder": clock(trainer.device) - start}
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:44} {value:10.4g}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"figures": figures, "device": str(find_device(options.device)), "provenance": provenance(options)})
    print(json.dumps({name: {key: float(f"{v:.4g}") for key, v in row.items()} for name, row in figures.items()}))
    return options.out


if __name__ == "__main__":
    run_command(TrainingOptions, main, prog="python -m benchmarks.training")
