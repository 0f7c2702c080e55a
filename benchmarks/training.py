"""Measures training at MSR-VTT's size, and a whole sweep: `python -m benchmarks.training`.

It writes a cache of 9,000 videos and 180,000 captions, with random features and caption lengths drawn from 1k-A, in the way extraction
does. On this cache it times training steps and, separately, their data path (gathering features into batches); steps of every head with
and without each temporal encoder, in wall and CPU seconds; and steps in one and in two gloo processes, each pinned to its own core. The
time of a whole run is extrapolated from its steps, or measured with --whole. --sweep CACHE times a sweep of 30 runs on that cache, which
should be the demo set's and takes minutes. The last line of the output is JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.scoring import ROOT, caption_lengths
from benchmarks.synthetic import VIDEOS_A_PART, random_features, seconds_of, write_cache
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache import ClipParts, FeatureCache, TextEntry, VideoEntry
from data.cli.command import run_command
from data.cli.meaning import DeviceName
from data.compute.device import budget_bytes, find_device, synchronize
from data.compute.processes import ProcessGroup
from train_head.heads import HEADS, head_class
from train_head.options import TrainOptions
from train_head.scoring.splits import Split, load_split
from train_head.stage import build_head
from train_head.sweep.rows import RUNS_FILE
from train_head.training.trainer import Trainer

DIMENSION = 512
FRAMES = 12
PATCHES = 4
"""Patch tokens of a frame."""
WORDS = 12.0
"""Words of a caption of 1k-A, on average."""
CAPTIONS_A_VIDEO = 20
BATCH = 128
EPOCHS = 5
WARM_UP_STEPS = 3
"""Untimed steps before each measurement; the first one compiles."""
MOST_STEP_FLOPS = 1e12
"""Heads that take more floating-point operations for a step are left out: it would take many seconds."""
SWEEP = ("--csc-weight", "0,0.1,0.3,0.5,0.7,1", "--seeds", "5", "--lr", "1e-3")
"""The grid of the paper's figure on the CSC weight: 30 runs."""


@dataclass(frozen=True)
class TrainingOptions:
    """Measure steps of training on a synthetic cache of MSR-VTT's size, and sweeps."""

    videos: int = 9000
    """Training videos, each with 20 captions and 12 frames."""
    steps: int = 60
    """Steps to time with and without the temporal encoder, after a few for warm-up."""
    head_steps: int = 12
    """Steps to time for each head with and without a temporal encoder, and for one and two processes."""
    heads: str = "all"
    """Heads to time beside glccl, joined by commas."""
    patches: int = PATCHES
    """Patch tokens of a frame, written only if one of the heads reads them: 12 KB a video each."""
    sweep: Path | None = None
    """Feature cache of the demo set; time a sweep of 30 runs on it. Default: no sweep."""
    whole: bool = False
    """Also run all five epochs, with the temporal encoder."""
    device: DeviceName = "auto"
    """Where to train."""
    annotations: Path = ROOT.parent / "shared" / "annotations"
    """Folder with msrvtt/MSRVTT_JSFUSION_test.csv and didemo/, for the caption lengths."""
    out: Path = ROOT / "runs" / "benchmarks" / "training.json"
    """Output file (JSON)."""


def make_cache(path: Path, videos: int, length_A: list[int], patches: int = 0) -> FeatureCache:
    """Write a cache of random features, in parts like those of an extraction; with this many patch tokens of each frame."""
    rng = np.random.default_rng(0)

    def features(*shape: int) -> NDArray[np.float32]:
        return random_features(rng, *shape, DIMENSION)

    # The tensors that initialize a temporal encoder.
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
    ids = [f"video{i}" for i in range(videos)]
    captions = [f"caption {i}" for i in range(videos * CAPTIONS_A_VIDEO)]
    length = rng.choice(length_A, len(captions))
    entries = (VideoEntry(video_id, features(FRAMES), seconds_of(FRAMES), 0, 0) for video_id in ids)
    texts = (TextEntry(caption, features(int(words)), features()) for caption, words in zip(captions, length, strict=True))
    cache = write_cache(path, settings, ClipParts(blocks, 100.0, 8, "QuickGELU"), entries, texts, count=videos, quiet=True)
    cache.write_table("table", pd.DataFrame({"video_id": np.repeat(ids, CAPTIONS_A_VIDEO), "caption": captions, "split": "train"}))
    for first in range(0, videos if patches else 0, VIDEOS_A_PART):
        tokens = [(video_id, features(FRAMES, patches)) for video_id in ids[first : first + VIDEOS_A_PART]]
        cache.write_patches([VideoEntry(video_id, of[:, 0], seconds_of(FRAMES), patch_TMD=of) for video_id, of in tokens], patches)
    return cache


def measure(cache: FeatureCache, split: Split, options: TrainingOptions, temporal: str) -> dict[str, float]:
    """Steps per second, the fraction of a step that the data path takes, and the extrapolated time of a whole run."""
    trainer = make_trainer(cache, split, options, temporal)
    batches = cycle(len(split.answers), trainer.batch_size)
    step, path = [], []
    for turn in range(WARM_UP_STEPS + options.steps):
        texts = next(batches)
        start = synchronized_seconds(trainer.device)
        trainer.batches(texts)
        middle = synchronized_seconds(trainer.device)
        trainer.step(texts)
        if turn >= WARM_UP_STEPS:
            path.append(middle - start)
            step.append(synchronized_seconds(trainer.device) - middle)
    seconds = statistics.median(step)
    run = seconds * trainer.steps_an_epoch * EPOCHS
    return {
        "steps a second": 1 / seconds,
        "data path, share of a step": statistics.median(path) / seconds,
        "whole run, seconds, from its steps": run,
    }


def measure_heads(cache: FeatureCache, split: Split, options: TrainingOptions, temporal: str) -> dict[str, dict[str, float]]:
    """Steps per second of the heads, and wall and CPU seconds of a step relative to glccl. The heads take steps alternately."""
    bare = replace(split, videos=replace(split.videos, patches=None))
    trainers = {}
    for name in heads_to_time(cache, options.heads):
        # A head with blocks of its own takes no temporal encoder.
        if temporal == "none" or not head_class(name).OWN_BLOCKS:
            trainers[name] = make_trainer(cache, split if head_class(name).READS_PATCHES else bare, options, temporal, name)
    batches = cycle(len(split.answers))
    wall: dict[str, list[float]] = {name: [] for name in trainers}
    cpu: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(WARM_UP_STEPS + options.head_steps):
        texts = next(batches)
        for name, trainer in trainers.items():
            start, worked = synchronized_seconds(trainer.device), time.process_time()
            trainer.step(texts)
            wall[name].append(synchronized_seconds(trainer.device) - start)
            cpu[name].append(time.process_time() - worked)
    walls, cpus = ({name: statistics.median(of_head[WARM_UP_STEPS:]) for name, of_head in seconds.items()} for seconds in (wall, cpu))
    return {
        f"head {name}, temporal {temporal}": {
            "steps a second": 1 / walls[name],
            "CPU seconds of a step": cpus[name],
            "wall seconds of a step against glccl": walls[name] / walls["glccl"],
            "CPU seconds of a step against glccl": cpus[name] / cpus["glccl"],
        }
        for name in trainers
    }


def heads_to_time(cache: FeatureCache, heads: str) -> list[str]:
    """The heads to time, glccl first. Says which are left out because of their FLOPs: three times the forward pass for all pairs."""
    kept = []
    for name in named_heads(heads):
        head = build_head(TrainOptions(cache=cache.path, out=cache.path / "run", head=name, temporal="none"), cache)
        flops = 3 * BATCH**2 * float(head.pair_flops(np.array(WORDS), np.array(float(FRAMES))))
        if flops > MOST_STEP_FLOPS and name != "glccl":
            print(f"head {name} is left out: a step takes {flops:.1e} floating-point operations", file=sys.stderr)
        else:
            kept.append(name)
    return kept


def named_heads(heads: str) -> list[str]:
    """The heads of --heads, glccl first."""
    names = list(HEADS) if heads == "all" else [name.strip() for name in heads.split(",")]
    return list(dict.fromkeys(["glccl", *names]))


def temporal_encoders() -> tuple[str, ...]:
    """The values of --temporal."""
    names: tuple[str, ...] = get_args(get_type_hints(TrainOptions)["temporal"])
    return tuple(name for name in names if name != "auto")


def measure_processes(cache: FeatureCache, options: TrainingOptions) -> dict[str, float]:
    """Steps per second of one process on one core, and of two processes that share the batch on two cores."""
    seconds = {}
    for count in (1, 2):
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"] if count > 1 else []
        command = [sys.executable, "-m", *torchrun, "benchmarks.training_process", str(cache.path), str(options.head_steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        seconds[count] = float(done.stdout.split()[-1])
    return {
        "steps a second, one process on one core": 1 / seconds[1],
        "steps a second, two processes on two": 1 / seconds[2],
        "two against one": seconds[1] / seconds[2],
    }


def measure_sweep(cache: Path) -> dict[str, float]:
    """Wall time of a sweep, started from the command line, and the CPU time of its runs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "train_head.sweep", "--cache", str(cache.resolve()), "--out", folder, *SWEEP, "--device", "cpu"]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
        table = pd.read_csv(Path(folder) / RUNS_FILE)
    worked = table["training_cpu_seconds"] + table["scoring_cpu_seconds"]
    return {
        "runs": len(table),
        "seconds": seconds,
        "minutes": seconds / 60,
        "CPU seconds of all runs": float(worked.sum()),
        "CPU seconds of a run, median": float(worked.median()),
    }


def make_trainer(
    cache: FeatureCache,
    split: Split,
    options: TrainingOptions,
    temporal: str,
    head: str = "glccl",
    processes: ProcessGroup | None = None,
) -> Trainer:
    """A trainer as in `train_head`, with the published batch size and number of epochs."""
    train = TrainOptions(
        cache=cache.path,
        out=cache.path / "run",
        head=head,
        temporal=temporal,  # type: ignore[arg-type]
        batch_size=BATCH,
        epochs=EPOCHS,
        quiet=False,
    )
    torch.manual_seed(0)
    return Trainer(build_head(train, cache).to(find_device(options.device)), train, split, processes or ProcessGroup())


def cycle(captions: int, size: int = BATCH) -> Iterator[NDArray[np.int64]]:
    """Endless random batches of this many captions."""
    rng = np.random.default_rng(0)
    while True:
        yield rng.choice(captions, size, replace=False)


def synchronized_seconds(device: torch.device) -> float:
    """The time in seconds, after all work queued on the device is done."""
    synchronize(device)
    return time.perf_counter()


def main(options: TrainingOptions) -> Path:
    """Measure, print the results and write them to OUT."""
    require_writable_file(options.out)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        reads = any(head_class(name).READS_PATCHES for name in named_heads(options.heads))
        lengths = caption_lengths(options.annotations)[0]
        cache = make_cache(Path(folder) / "cache", options.videos, lengths, options.patches if reads else 0)
        print(f"cache written in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        start = time.perf_counter()
        all_features = load_split(FeatureCache(cache.path), "train", None, budget_bytes(None), patches=reads)
        split = replace(all_features, videos=replace(all_features.videos, patches=None))
        figures["loading"] = {"seconds to open and load the cache": time.perf_counter() - start}
        for name, temporal in (("no temporal encoder", "none"), ("temporal encoder", "seq-transf")):
            figures[name] = measure(cache, split, options, temporal)
        for temporal in temporal_encoders():
            figures |= measure_heads(cache, all_features, options, temporal)
        figures["gloo processes"] = measure_processes(cache, options)
        if options.whole:
            trainer = make_trainer(cache, split, options, "seq-transf")
            start = synchronized_seconds(trainer.device)
            for epoch in range(1, EPOCHS + 1):
                trainer.run_epoch(epoch)
            figures["whole run"] = {"seconds of five epochs, temporal encoder": synchronized_seconds(trainer.device) - start}
    if options.sweep is not None:
        figures["whole sweep"] = measure_sweep(options.sweep)
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:44} {value:10.4g}")
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "device": str(find_device(options.device)), "provenance": provenance(options)})
    print(json.dumps({name: {key: float(f"{v:.4g}") for key, v in row.items()} for name, row in figures.items()}))
    return options.out


if __name__ == "__main__":
    run_command(TrainingOptions, main, prog="python -m benchmarks.training")
