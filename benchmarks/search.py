"""Measures a query on a large gallery: `python -m benchmarks.search`.

The cache holds random features, but the query takes the whole path of a search: a ViT-B/32 with random weights encodes 12 tokens, a
head scores the query with every video, and the best moments of the top ten are found. The alternatives run alternately. The last line
of the output is JSON.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.synthetic import random_features, seconds_of, write_cache
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache import FeatureCache, VideoEntry
from data.cache.extraction import Extraction
from data.cli.command import run_command
from extract.encode.clip import Clip, load_clip
from search.options import RetrievalOptions
from search.searcher import Searcher
from train_head.heads import DEFAULT_EXECUTION, HeadConfig, make_head
from train_head.run import save_run

ROOT = Path(__file__).parent.parent
MODEL, PRETRAINED = "ViT-B-32-quickgelu", "random"
MAX_WORDS = 32
WORDS = ("man", "dog", "car", "tree", "ball", "red", "game", "street", "girl", "water", "song", "horse")
"""Words that are one token each."""
TOKENS = 12
"""Tokens of a query, including start and end: the mean of MSR-VTT's test captions."""

Row = dict[str, float]


@dataclass(frozen=True)
class SearchBenchmarkOptions:
    """Measure loading time, memory, and the time of a query."""

    videos: int = 10_000
    """Videos in the gallery."""
    frames: int = 12
    """Frames per video."""
    queries: int = 30
    """Number of different queries to measure."""
    threads: int = 2
    """Threads to use; CPU time is always measured with one thread."""
    out: Path = ROOT / "runs" / "benchmarks" / "search.json"
    """Output file (JSON)."""


def make_cache(path: Path, clip: Clip, videos: int, frames: int) -> FeatureCache:
    """A cache of random features whose norms are close to CLIP's."""
    settings = {"weights": clip.digest, "architecture": clip.architecture, "dimension": clip.dimension, **clip.image_settings()}
    settings |= {"fps": 1.0, "max_frames": frames, "max_words": MAX_WORDS, "precision": "fp32", "dtype": "float16"}
    random = np.random.default_rng(0)
    entries = (VideoEntry(f"video{i}", random_features(random, frames, clip.dimension), seconds_of(frames), 1, 1) for i in range(videos))
    return write_cache(path, settings, clip.parts(), entries, extraction=Extraction(MODEL, PRETRAINED), count=videos)


def make_run(path: Path, cache: FeatureCache) -> Path:
    """A GLCCL run with random weights and a temporal encoder of the published shape."""
    positions = len(cache.clip_parts().tensors["positional_embedding"])
    heads = cache.dimension // 64
    config = HeadConfig(cache.dimension, MAX_WORDS, 100.0, temporal="seq-transf", temporal_positions=positions, temporal_heads=heads)
    path.mkdir()
    save_run(path, make_head("glccl", config), {"weights": cache.weights})
    return path


def measure(cache: Path, run: str, queries: int, threads: int) -> Row:
    """Measure one head. Call this in a separate process."""
    torch.set_num_threads(threads)
    start, before = time.perf_counter(), _held_mib()
    options = RetrievalOptions(cache=cache, run=run, device="cpu", quiet=True)
    searcher = Searcher(options, queries=False)
    row = {"loading s": time.perf_counter() - start, "gallery MiB": _held_mib() - before}
    start = time.perf_counter()
    _ = searcher.encoder
    row["loading CLIP s"] = time.perf_counter() - start
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(WORDS, TOKENS - 2)) for _ in range(queries)]
    assert set(searcher.encoder.encode(texts).words.length_N.tolist()) == {TOKENS}

    next(searcher.search(texts[:1]))
    # Read before the second searcher takes as much memory again.
    row["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    whole_tiles = Searcher(options, queries=False, execution=DEFAULT_EXECUTION)
    sides: dict[str, Callable[[str], object]] = {
        "query": lambda text: next(searcher.search([text])),
        "query on whole tiles": lambda text: next(whole_tiles.search([text])),
        "its encoding": lambda text: searcher.encoder.encode([text]),
    }
    for name, seconds in seconds_per_text(sides, texts, time.perf_counter).items():
        row[f"{name} ms"] = 1000 * statistics.median(seconds)
        row[f"{name} ms, 95th percentile"] = 1000 * float(np.percentile(seconds, 95))
    row["whole tiles, times slower"] = row["query on whole tiles ms"] / row["query ms"]
    searcher.gallery.threads = whole_tiles.gallery.threads = 1
    torch.set_num_threads(1)
    for name, seconds in seconds_per_text(sides, texts[: max(3, queries // 3)], time.process_time).items():
        row[f"{name} processor ms, one thread"] = 1000 * statistics.median(seconds)
    start = time.process_time()
    # The first query of a new length also scores random words of that length (see search.retrieval.chance).
    next(searcher.search([" ".join(WORDS[: TOKENS - 1])]))
    row["first query of a length, processor ms, one thread"] = 1000 * (time.process_time() - start)
    return row


def seconds_per_text(sides: dict[str, Callable[[str], object]], texts: list[str], clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each side for every text, by `clock`. The sides run alternately, after an untimed first round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i, text in enumerate([texts[0], *texts]):
        for name, run in sides.items():
            start = clock()
            run(text)
            if i:
                seconds[name].append(clock() - start)
    return seconds


def _held_mib() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def main(options: SearchBenchmarkOptions) -> Path:
    """Measure, print the results and write them to OUT."""
    require_writable_file(options.out)
    figures: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = make_cache(Path(folder) / "cache", load_clip(MODEL, PRETRAINED, torch.device("cpu")), options.videos, options.frames)
        trained = make_run(Path(folder) / "run", cache)
        runs = {"glccl": "zero-shot:glccl", "glccl with a temporal encoder": str(trained), "mean": "zero-shot:mean"}
        for name, run in runs.items():
            print(name, file=sys.stderr)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                figures[name] = pool.submit(measure, cache.path, run, options.queries, options.threads).result()
    for name, row in figures.items():
        print(f"{name}, {options.videos:,} videos of {options.frames} frames, {options.threads} threads")
        for key, value in row.items():
            print(f"  {key:42} {value:10.4g}")
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "provenance": provenance(options)})
    print(json.dumps({name: {key: float(f"{value:.4g}") for key, value in row.items()} for name, row in figures.items()}))
    return options.out


if __name__ == "__main__":
    run_command(SearchBenchmarkOptions, main, prog="python -m benchmarks.search")
