"""Measures every head side by side: `python -m benchmarks.heads`.

Every head of HEADS scores the same random features: texts with the caption lengths of MSR-VTT 1k-A, and videos of 12 frames in 512
dimensions, with four patch tokens of every frame for heads that read them. Heads run without a temporal encoder. Each temporal encoder runs
before `mean`; what it adds there, it adds to any head. A head that would take too long scores fewer pairs, and its row says how many. Runs
alternate between the heads, and medians are compared; memory is the peak of a separate process, beyond features and score matrix. Prints a
Markdown table, then one line of JSON.
"""

import json
import math
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import time_interleaved
from benchmarks.scoring import DIMENSION, ROOT, Matrix, caption_lengths
from benchmarks.synthetic import random_features
from benchmarks.training import FRAMES, PATCHES, make_cache, temporal_encoders
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache import FeatureCache
from data.cache.features import Ragged, TextFeatures, VideoFeatures
from data.cli.command import run_command
from evaluate.cost import measured
from train_head.heads import HEADS, Head, head_class
from train_head.kernels.blocks import TEXTS_PER_BLOCK, VIDEOS_PER_BLOCK
from train_head.options import TrainOptions
from train_head.scoring.cost import flops_a_pair
from train_head.scoring.pairs import score_all_pairs
from train_head.scoring.splits import Split
from train_head.stage import build_head

BASE = "glccl"
"""The head that ratios refer to."""
BEHIND = "mean"
"""The head that temporal encoders run before."""
BUDGET = 2**30
"""Bytes of encoded videos held at once: all of them."""


@dataclass(frozen=True)
class HeadsOptions:
    """Measure parameters, FLOPs, time and memory of every head side by side."""

    texts: int = 1000
    """Number of texts."""
    videos: int = 1000
    """Number of videos."""
    heads: str = "all"
    """Heads to measure beside glccl, joined by commas. all also measures the temporal encoders."""
    repeats: int = 3
    """Timed runs of each head; their median counts."""
    most_flops: float = 2e12
    """A head that needs more floating-point operations than this for all pairs scores a part of them."""
    annotations: Path = ROOT.parent / "shared" / "annotations"
    """Folder with msrvtt/MSRVTT_JSFUSION_test.csv and didemo/, for the caption lengths."""
    out: Path = ROOT / "runs" / "benchmarks" / "heads.json"
    """Output file (JSON)."""


@dataclass(frozen=True)
class System:
    """A head and the temporal encoder before it."""

    head: str
    temporal: str = "none"

    @property
    def name(self) -> str:
        """As a row calls it."""
        return self.head if self.temporal == "none" else f"{self.head}, --temporal {self.temporal}"

    def build(self, cache: FeatureCache) -> Head:
        """The head as training starts it, with gradients off."""
        torch.manual_seed(0)
        options = TrainOptions(cache=cache.path, out=cache.path / "run", head=self.head, temporal=self.temporal)  # type: ignore[arg-type]
        return build_head(options, cache).requires_grad_(False).eval()


@dataclass(frozen=True)
class Row:
    """The figures of a system."""

    parameters: int
    flops_a_pair: float
    ms_a_query: float
    """Wall time with all videos, scaled up if fewer pairs were scored."""
    cpu_ms_a_query: float
    """CPU time likewise, which other work on the machine changes less."""
    times_glccl: float
    cpu_times_glccl: float
    peak_mib: float | None
    """On the pairs that were scored; None where the system does not tell."""
    texts: int
    videos: int
    """The pairs that were scored."""


def problem(length_A: list[int], videos: int, patches: bool = False) -> Split:
    """Random features of texts with these numbers of words, and of videos; text a belongs to video a, as far as there are any.

    patches: with the PATCHES tokens of every frame.
    """
    rng = np.random.default_rng(0)

    def features(lengths: list[int]) -> Ragged:
        return Ragged.in_memory(random_features(rng, sum(lengths), DIMENSION), np.concatenate([[0], np.cumsum(lengths)]))

    texts = TextFeatures([f"text {a}" for a in range(len(length_A))], features(length_A), features([1] * len(length_A)))
    gallery = VideoFeatures([f"video {b}" for b in range(videos)], features([FRAMES] * videos), [np.arange(FRAMES) / 1.0] * videos)
    if patches:
        rows = random_features(rng, videos * FRAMES, PATCHES, DIMENSION).astype(np.float16)
        gallery = replace(gallery, patches=Ragged.in_memory(rows, np.arange(videos + 1) * FRAMES))
    return Split("test", "synthetic", (), texts, gallery, np.arange(len(length_A)) % videos, {})


def score(head: Head, split: Split) -> None:
    """Score all pairs as an evaluation does."""
    matrix = Matrix(len(split.texts.texts), len(split.videos.ids), head.logit_scale.device)
    score_all_pairs(head, split.texts, split.videos, split.answers, [matrix], BUDGET)


def affordable(head: Head, length_A: list[int], videos: int, most_flops: float) -> tuple[int, int]:
    """How many texts and videos the head scores, for at most this many floating-point operations; both shrink alike."""
    flops = float(head.pair_flops(np.array(np.mean(length_A)), np.array(float(FRAMES)))) * len(length_A) * videos
    share = min(1.0, math.sqrt(most_flops / flops))
    return max(1, int(len(length_A) * share)), max(1, int(videos * share))


def warm_up(head: Head, length_A: list[int], videos: int) -> None:
    """Score a few pairs, so that loading libraries and compiled code is not measured."""
    score(head, problem(length_A[:TEXTS_PER_BLOCK], min(videos, VIDEOS_PER_BLOCK), head.READS_PATCHES))


def peak_mib(cache_path: Path, system: System, length_A: list[int], videos: int) -> float | None:
    """Peak memory in MiB of scoring, beyond features and score matrix. Call it in a fresh process."""
    head = system.build(FeatureCache(cache_path))
    warm_up(head, length_A, videos)
    split = problem(length_A, videos, head.READS_PATCHES)
    with measured(torch.device("cpu")) as cost:
        score(head, split)
    return None if cost.peak_extra_mib is None else cost.peak_extra_mib - len(length_A) * videos * 4 / 2**20


def measure(cache: FeatureCache, systems: list[System], length_A: list[int], options: HeadsOptions) -> dict[str, Row]:
    """The figures of all systems, the one that ratios refer to first."""
    heads = {system.name: system.build(cache) for system in systems}
    size = {name: affordable(head, length_A, options.videos, options.most_flops) for name, head in heads.items()}
    kinds = {name: (*size[name], head.READS_PATCHES) for name, head in heads.items()}
    splits = {kind: problem(length_A[: kind[0]], *kind[1:]) for kind in set(kinds.values())}
    sides = {name: partial(score, head, splits[kinds[name]]) for name, head in heads.items()}
    for head in heads.values():
        warm_up(head, length_A, options.videos)
    timings = time_interleaved(sides, options.repeats)
    rows: dict[str, Row] = {}
    for system in systems:
        (texts, videos), head = size[system.name], heads[system.name]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peak = pool.submit(peak_mib, cache.path, system, length_A[:texts], videos).result()
        per_query = 1000 / texts * options.videos / videos
        wall, cpu = (per_query * seconds for seconds in (timings[system.name].wall_s, timings[system.name].cpu_s))
        rows[system.name] = Row(
            parameters=sum(parameter.numel() for parameter in head.parameters()),
            flops_a_pair=flops_a_pair(head, splits[kinds[system.name]]),
            ms_a_query=wall,
            cpu_ms_a_query=cpu,
            times_glccl=wall / rows[BASE].ms_a_query if rows else 1.0,
            cpu_times_glccl=cpu / rows[BASE].cpu_ms_a_query if rows else 1.0,
            peak_mib=peak,
            texts=texts,
            videos=videos,
        )
    return rows


def table(rows: dict[str, Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"| head | parameters | FLOPs a pair | ms a query, wall | CPU | times {BASE}, wall | CPU | peak MiB | pairs scored |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, row in rows.items():
        head, _, temporal = name.partition(", ")
        named = f"`{head}`" + (f", `{temporal}`" if temporal else "")
        peak = "" if row.peak_mib is None else f"{row.peak_mib:,.0f}"
        cost = f"{row.parameters:,} | {row.flops_a_pair:,.0f} | {_digits(row.ms_a_query)} | {_digits(row.cpu_ms_a_query)}"
        ratios = f"{_digits(row.times_glccl)} | {_digits(row.cpu_times_glccl)}"
        lines.append(f"| {named} | {cost} | {ratios} | {peak} | {row.texts:,} x {row.videos:,} |")
    return "\n".join(lines)


def _digits(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{number:.3g}'):,g}"


def chosen(heads: str) -> list[System]:
    """The systems to measure, glccl first. Raises UserError for a name that is not a head's."""
    if heads == "all":
        behind = [System(BEHIND, temporal) for temporal in temporal_encoders() if temporal != "none"]
        return [System(name) for name in sorted(HEADS, key=lambda name: name != BASE)] + behind
    names = [name.strip() for name in heads.split(",")]
    for name in names:
        try:
            head_class(name)
        except UserError as error:
            raise UserError(f"--heads {heads}: {error}") from error
    return [System(name) for name in dict.fromkeys([BASE, *names])]


def main(options: HeadsOptions) -> Path:
    """Measure, print a table and a line of JSON, and write the figures to OUT."""
    systems = chosen(options.heads)
    for name in ("texts", "videos", "repeats", "most_flops"):
        if getattr(options, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: give a number above 0")
    require_writable_file(options.out)
    length_A = np.resize(caption_lengths(options.annotations)[0], options.texts).tolist()
    with tempfile.TemporaryDirectory() as folder:
        # A cache from which a head takes its sizes, and a temporal encoder its weights.
        cache = make_cache(Path(folder) / "cache", 1, length_A, PATCHES)
        print(f"{len(systems)} systems, {options.texts:,} texts x {options.videos:,} videos", file=sys.stderr)
        rows = measure(cache, systems, length_A, options)
    figures = {name: asdict(row) for name, row in rows.items()}
    print(table(rows))
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "threads": torch.get_num_threads(), "provenance": provenance(options)})
    print(json.dumps(figures))
    return options.out


if __name__ == "__main__":
    run_command(HeadsOptions, main, prog="python -m benchmarks.heads")
