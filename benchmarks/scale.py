"""Measures cost against the number of videos: `python -m benchmarks.scale`. docs/design/scale.md reports its results.

Runs 1,000 real queries on synthetic caches that imitate a real one (benchmarks.synthetic). Measures opening a cache, building an index,
a query, and all pairs, each with the exponent of its growth with the number of videos; the candidates needed to match exhaustive recall;
and evaluation in two processes against one. Each size runs in a separate process. Memory is the growth of that process, which excludes
features that are read from disk. The last line of the output is JSON.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.scoring import Matrix
from benchmarks.synthetic import FrameDistribution, make_cache, relative_errors
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache import FeatureCache
from data.cli.command import run_command
from data.compute.processes import ProcessGroup
from data.metrics import RankCounter
from evaluate.cost import measured
from evaluate.scores.matrix import MatrixFiles
from evaluate.scores.saving import MEAN, SavedScores, chosen_matrices
from search.index.candidates import Vectors, candidate_index, find_candidates
from search.index.vectors import VideoIndex
from search.retrieval.gallery import Gallery
from search.retrieval.shortlist import IndexedGallery
from train_head.heads import Head, TextBatch
from train_head.run import METRICS_FILE, load_head
from train_head.scoring.pairs import RankedScores, evaluate_pairs, score_all_pairs
from train_head.scoring.rerank import candidate_metrics
from train_head.scoring.splits import Split, load_split

ROOT = Path(__file__).parent.parent
DEVICE = torch.device("cpu")
HELD = 64 * 2**20
"""Bytes of encoded videos held at once while all pairs are scored. Features are read from disk."""
CANDIDATES = 100
LADDER = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
QUERIES_TIMED = 30
SPEED_VIDEOS = 2000
"""Number of videos and of captions when one process is compared with two."""
SQUARE = 100_000
MADE_FROM: tuple[Vectors, ...] = ("frames", "pooled")

Row = dict[str, float]


@dataclass(frozen=True)
class ScaleOptions:
    """Measure cost against the number of videos."""

    cache: Path = ROOT / "runs" / "demo" / "cache"
    """Cache of the demo set, which the synthetic videos imitate (make demo)."""
    enlarged: Path | None = None
    """Cache of a larger demo set, to measure the number of candidates needed (python -m experiments.fullsize).
    Default: a synthetic cache of 10,000 videos."""
    run: str = "zero-shot:glccl"
    """Folder of a run, or zero-shot:HEAD."""
    sizes: tuple[int, ...] = (1000, 10_000, 100_000)
    """Numbers of videos; 100,000 videos have a million frames."""
    repeats: int = 5
    """Evaluations in one and in two processes."""
    work: Path | None = None
    """Folder to keep the synthetic caches in. Default: a temporary folder."""
    out: Path = ROOT / "runs" / "benchmarks" / "scale.json"
    """Output file (JSON)."""


def at_size(path: Path, run: str) -> Row:
    """Measure all costs at one size. Call this in a separate process."""
    row: Row = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        with measured(DEVICE) as cost:
            result = work()
        row[f"{name} s"] = cost.seconds
        if cost.peak_extra_mib is not None:
            row[f"{name} MiB"] = cost.peak_extra_mib
        return result

    cache = timed("open", lambda: FeatureCache(path))
    split = load_split(cache, "test", None, 2**30)
    head, _ = load_head(run, cache, DEVICE)
    gallery = timed("gallery", lambda: Gallery(cache, cache.names("videos"), head, None, 0, ahead=False))
    number = {video_id: i for i, video_id in enumerate(gallery.ids)}
    answers = np.array([number[split.videos.ids[b]] for b in split.answers])
    for vectors in MADE_FROM:
        index: VideoIndex = timed(f"index of {vectors}", lambda vectors=vectors: candidate_index(cache, gallery.videos, vectors))  # type: ignore[misc]
        row[f"index of {vectors} held MiB"] = index.bytes_held / 2**20
        row[f"query by {vectors} ms"] = 1000 * _query_seconds(IndexedGallery(index, min(CANDIDATES, index.videos)), gallery, split.texts)
    evaluate_pairs(head, cache.texts(split.texts.texts[:32], 2**30), split.videos, split.answers[:32], HELD)  # loads compiled code
    timed("all pairs", lambda: evaluate_pairs(head, split.texts, gallery.videos, answers, HELD))
    timed("all pairs, saved", lambda: _save_scores(head, replace(split, videos=gallery.videos, answers=answers), path.parent))
    row["matrix MiB"] = len(answers) * len(gallery.ids) * 4 / 2**20
    row["queries"], row["videos"] = len(answers), len(gallery.ids)
    return row


def _save_scores(head: Head, split: Split, folder: Path) -> None:
    """Rank all pairs and write the matrix, as evaluate --save-scores does."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        files = MatrixFiles(Path(temporary) / "scores.npy")
        saved = SavedScores(files, split, chosen_matrices(MEAN, head.score_names()), "float32", each=False)
        counter = RankCounter(split.answers, len(split.videos.ids))
        with saved.opened(ProcessGroup()):
            score_all_pairs(head, split.texts, split.videos, split.answers, [RankedScores(counter), saved], HELD)


def _query_seconds(candidates: IndexedGallery, gallery: Gallery, texts: Any) -> float:
    """Median seconds to find the candidates of one query and score them, with features on disk."""
    seconds = []
    for a in range(QUERIES_TIMED + 1):
        text = TextBatch.gather(texts, [a], DEVICE)
        start = time.perf_counter()
        gallery.scores(text, candidates.for_text(texts, a))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def candidates_needed(path: Path, run: str) -> Row:
    """R@10 of 1,000 queries, exhaustive and with K candidates, and the smallest K that loses at most half a point."""
    cache = FeatureCache(path)
    split = load_split(cache, "test", None, 2**33)
    head, _ = load_head(run, cache, DEVICE)
    gallery = cache.videos(sorted(cache.names("videos")), 2**33)
    number = {video_id: i for i, video_id in enumerate(gallery.ids)}
    asked = range(min(1000, len(split.answers)))
    texts = cache.texts([split.texts.texts[a] for a in asked], 2**30)
    answers = np.array([number[split.videos.ids[split.answers[a]]] for a in asked])
    matrix = Matrix(len(texts.texts), len(gallery.ids), head.logit_scale.device)
    score_all_pairs(head, texts, gallery, answers, [matrix], 2**30)
    every = torch.arange(len(gallery.ids)).expand(len(texts.texts), -1)
    exhaustive = candidate_metrics(every, matrix.score_AB, answers, len(gallery.ids))["text_to_video"]["R@10"]
    row: Row = {"videos": len(gallery.ids), "queries": len(texts.texts), "exhaustive R@10": exhaustive}
    for vectors in MADE_FROM:
        index = candidate_index(cache, gallery, vectors)
        for k in LADDER:
            if k > len(gallery.ids):
                break
            candidate_AK = find_candidates(index, texts, k)
            found = candidate_metrics(candidate_AK, matrix.score_AB.gather(1, candidate_AK), answers, len(gallery.ids))
            row[f"{vectors} K = {k}: R@10 lost"] = exhaustive - found["text_to_video"]["R@10"]
            row[f"{vectors} K = {k}: answers there"] = found["answers_among_candidates"]
        enough = [k for k in LADDER if abs(row.get(f"{vectors} K = {k}: R@10 lost", np.inf)) <= 0.5]
        row[f"{vectors}: smallest K within 0.5"] = min(enough, default=float(len(gallery.ids)))
    return row


def processes_shared(path: Path, run: str, repeats: int) -> Row:
    """Median seconds of scoring in one process, and in two, which run alternately. Each process is pinned to its own core."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for count, found in seconds.items():
                found.append(_pinned(path, run, count, Path(folder) / f"{count}"))
    one, two = (statistics.median(found) for found in seconds.values())
    return {"one process s": one, "two processes s": two, "one over two": one / two, "pairs": float(SPEED_VIDEOS**2)}


def _pinned(path: Path, run: str, count: int, out: Path) -> float:
    """Seconds of scoring as rank 0 measures them, from its first block to the merged counts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "evaluate", "--cache", path, "--run", run, "--out", out, "--device", "cpu", "--quiet"]
    started = [
        subprocess.Popen(
            ["taskset", "-c", str(cores[rank % len(cores)]), *map(str, command)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **shared, "LOCAL_WORLD_SIZE": str(count), "RANK": str(rank)},
        )
        for rank in range(count)
    ]
    if any(process.wait() for process in started):
        raise RuntimeError(f"evaluation in {count} processes failed")
    return float(json.loads((out / METRICS_FILE).read_text())["cost"]["measured"]["seconds"])


def exponents(rows: Sequence[Row]) -> Row:
    """Fit cost = a * videos^b by least squares on the logarithms; the exponent b of every cost."""
    videos = np.log([row["videos"] for row in rows])
    fitted = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name.endswith((" s", " ms", " MiB")) and min(values) > 0:
            fitted[name] = float(np.polyfit(videos, np.log(values), 1)[0])
    return fitted


def square(largest: Row) -> Row:
    """Time to evaluate 100,000 queries on 100,000 videos, extrapolated linearly in queries and videos from the largest size."""
    pairs = largest["queries"] * largest["videos"]
    return {"seconds": largest["all pairs s"] * SQUARE**2 / pairs, "hours": largest["all pairs s"] * SQUARE**2 / pairs / 3600}


def billion(query: Row) -> Row:
    """The arithmetic in docs/design/scale.md for a billion videos with 12 frames of 512 numbers each."""
    videos, frames, dimension = 1e9, 12, 512
    node_bytes, node_share = 2**40, 0.7  # memory of a node, and the fraction of it that the index may use
    features = videos * frames * dimension * 2
    pooled = videos * (dimension + 8)
    by_frame = videos * frames * (64 + 8)  # 64 bytes of product-quantized codes and a video number
    return {
        "features TB": features / 1e12,
        "features TB, three copies": 3 * features / 1e12,
        "pooled index, 8 bits a number, TB": pooled / 1e12,
        "frame index, 64 bytes a vector, TB": by_frame / 1e12,
        "nodes for the pooled index": float(np.ceil(pooled / (node_bytes * node_share))),
        "nodes for the frame index": float(np.ceil(by_frame / (node_bytes * node_share))),
        "KB read for 1,000 candidates": 1000 * frames * dimension * 2 / 1e3,
        "cores to re-rank 1,000 candidates of 100 queries a second": 100 * 10 * query["query by frames ms"] / 1000 * 2,
    }


def _alone(work: Callable[..., Row], *arguments: Any) -> Row:
    """Run the work in a separate process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _made(path: Path, real: FeatureCache, videos: int, captions: int | None = None) -> Path:
    """The synthetic cache at `path`, which is made if it does not exist yet."""
    if not (path / "captions-scale.parquet").exists():
        make_cache(path, real, videos, captions)
    return path


def main(options: ScaleOptions) -> Path:
    """Measure, print the results and write them to OUT. Raises UserError if there is no demo cache."""
    require_writable_file(options.out)
    if not options.cache.exists():
        raise UserError(f"--cache {options.cache} does not exist: create it with make demo")
    real = FeatureCache(options.cache)
    work = options.work or Path(tempfile.mkdtemp())
    figures: dict[str, Row] = {}

    def add(name: str, row: Row) -> Row:
        figures[name] = row
        print(name, *(f"  {key:60} {value:12.4g}" for key, value in row.items()), sep="\n", flush=True)
        return row

    try:
        distribution = FrameDistribution.of(load_split(real, "test", None, 2**33))
        add("synthetic against real", relative_errors(distribution, np.random.default_rng(1)))
        rows = [
            add(f"{videos:,} videos", _alone(at_size, _made(work / f"{videos}", real, videos), options.run)) for videos in options.sizes
        ]
        add("exponents", exponents(rows))
        add("100,000 x 100,000, extrapolated", square(rows[-1]))
        add("a billion videos, computed", billion(rows[-1]))
        enlarged = options.enlarged or _made(work / "10000", real, 10_000)
        add("candidates needed", _alone(candidates_needed, enlarged, options.run))
        shared = _made(work / "square", real, SPEED_VIDEOS, SPEED_VIDEOS)
        add("processes", processes_shared(shared, options.run, options.repeats))
    finally:
        if options.work is None:
            shutil.rmtree(work)
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "threads": torch.get_num_threads(), "provenance": provenance(options)})
    print(json.dumps(figures))
    return options.out


if __name__ == "__main__":
    run_command(ScaleOptions, main, prog="python -m benchmarks.scale")
