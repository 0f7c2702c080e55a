"""Measures scoring of all pairs: every head, beside the two matrix products and the published formulation of GLCCL.

Features are random, with caption lengths like those of MSR-VTT 1k-A: see `caption_lengths`.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.place import Outcome, Place
from benchmarks.heads import BASE, BUDGET, System, affordable, problem, score, warm_up
from benchmarks.scoring import DIMENSION, Problem, off_identity
from benchmarks.training import PATCHES, make_cache
from evaluate.cost import measured
from train_head.heads import HEADS, Head, HeadConfig
from train_head.heads.glccl import GlcclHead
from train_head.scoring.pairs import evaluate_pairs
from train_head.scoring.splits import Split

MAX_WORDS = 32
LARGE, SMALL = ((1000, 1000), (15_000, 1500)), ((40, 30),)
"""Texts and videos of the matrices."""
MOST_FLOPS, MOST_FLOPS_CPU = 5e13, 1e9
"""A head that needs more floating-point operations than this for all pairs scores a part of them: about a second of an H100."""
TIME_LIMIT_S = 75.0
"""After this time, no further head begins."""
PUBLISHED_PAIRS = (1000, 1000)
"""Most texts and videos that the published formulation scores; its time is proportional to the pairs."""
PRODUCT_BYTES = 2**30
"""Most bytes of a product of words with frames at a time."""
CORNER = 64
"""Texts and videos whose scores are compared with those of the published formulation."""
MOST_DIFFERENCE = 0.02
"""Largest difference from the published scores, which reach 100, that rounding explains: kappa = 0.01 multiplies that of the cosines."""

SECONDS = "seconds of all pairs"

Figures = dict[str, float]


def caption_lengths(count: int) -> list[int]:
    """Numbers of words, start and end included, of captions like those of MSR-VTT 1k-A: 12 on average, 4 at least, and a long tail."""
    drawn = np.random.default_rng(0).gamma(4.0, 2.0, count)
    lengths: list[int] = (4 + drawn).astype(int).clip(max=MAX_WORDS).tolist()
    return lengths


def matrices(place: Place) -> Outcome:
    """Seconds and memory of scoring all pairs, 1,000 x 1,000 and 15,000 x 1,500, for every head of HEADS without a temporal encoder.

    Beside them, on the same features: the two matrix products of words with frames, which GLCCL's scores need at the least, and the
    published formulation, on at most 1,000 x 1,000 pairs. A head that would take too many operations, such as tight or joint, scores a
    part of the pairs too. Seconds are of all pairs, scaled from the texts and videos timed, with the features on the device before. Memory
    is the peak beyond what was held before: encoded texts and videos, blocks of scores and the score matrix. `glccl, ranks counted` is what
    an evaluation does, from features in the machine's memory to metrics.
    """
    start = time.perf_counter()
    figures: dict[str, dict[str, Figures]] = {}
    remarks: list[str] = []
    holds: dict[str, bool] = {}
    most_flops = MOST_FLOPS if place.device.type == "cuda" and not place.small else MOST_FLOPS_CPU
    cache = make_cache(place.folder / "cache", 1, caption_lengths(20), PATCHES)
    for texts, videos in SMALL if place.small else LARGE:
        length_A, shape = caption_lengths(texts), f"{texts:,} x {videos:,}"
        split = problem(length_A, videos, patches=True)
        references, difference = measure_references(place, split)
        rows = figures[shape] = dict(references)
        holds[f"{shape}: glccl equals the published formulation"] = difference <= MOST_DIFFERENCE
        skipped, too_large = [], []
        for name in sorted(HEADS, key=lambda name: name != BASE):
            if time.perf_counter() - start > TIME_LIMIT_S:
                skipped.append(name)
                continue
            head = System(name).build(cache).to(place.device)
            try:
                row = measure_head(place, head, split, length_A, most_flops)
            except torch.OutOfMemoryError:
                too_large.append(name)
                continue
            if name == BASE:
                row |= {f"times {other}": row[SECONDS] / given[SECONDS] for other, given in references.items()}
                row["largest difference from the published formulation"] = difference
                rows[f"{name}, ranks counted"] = measure_ranks(place, head, split)
            rows[name] = row
        holds[f"{shape}: every head fits into memory"] = not too_large
        remarks += [f"{shape}: no time was left for {', '.join(skipped)}"] if skipped else []
        remarks += [f"{shape}: {', '.join(too_large)} ran out of memory"] if too_large else []
    return Outcome(figures, holds, remarks)


def measure_references(place: Place, split: Split) -> tuple[dict[str, Figures], float]:
    """The figures of the two products and of the published formulation, and the largest difference of glccl's scores from those."""
    generator = torch.Generator().manual_seed(0)
    head = off_identity(GlcclHead(BASE, HeadConfig(DIMENSION, MAX_WORDS, logit_scale=100.0)), generator).to(place.device)
    frames = int(split.videos.frames.length_N.sum())
    whole = Problem(split.texts, split.videos, head, MAX_WORDS)
    # Their memory is allocated before.
    products = {SECONDS: figures_of(place, whole.two_products(max(1, PRODUCT_BYTES // (4 * frames))))[SECONDS]}
    texts, videos = (min(count, most) for count, most in zip((len(split.texts.texts), len(split.videos.ids)), PUBLISHED_PAIRS, strict=True))
    part = problem(split.texts.words.length_N[:texts].tolist(), videos)
    some = Problem(part.texts, part.videos, head, MAX_WORDS)
    published = figures_of(place, partial(some.published, some.inputs()))
    published[SECONDS] *= len(split.texts.texts) * len(split.videos.ids) / (texts * videos)
    corner_part = problem(split.texts.words.length_N[:CORNER].tolist(), min(CORNER, videos))
    corner = Problem(corner_part.texts, corner_part.videos, head, MAX_WORDS)
    difference = float((corner.ours() - corner.published()).abs().max())
    rows = {"two products": products, "published formulation": published | {"texts timed": texts, "videos timed": videos}}
    return rows, difference


def measure_head(place: Place, head: Head, split: Split, length_A: list[int], most_flops: float) -> Figures:
    """Seconds and memory of a head on the pairs of the split that it can afford, and seconds of all pairs from those."""
    texts, videos = affordable(head, length_A, len(split.videos.ids), most_flops)
    pairs, scored = len(length_A) * len(split.videos.ids), texts * videos
    part = split if scored == pairs else problem(length_A[:texts], videos, head.READS_PATCHES)
    warm_up(head, length_A[:texts], videos)
    part = replace(part, texts=part.texts.to(place.device), videos=part.videos.to(place.device))
    row = figures_of(place, partial(score, head, part), warm=False)
    return row | {SECONDS: row[SECONDS] * pairs / scored, "texts timed": texts, "videos timed": videos}


def measure_ranks(place: Place, head: Head, split: Split) -> Figures:
    """Seconds and memory of scoring all pairs and counting ranks, as an evaluation does."""
    return figures_of(place, lambda: evaluate_pairs(head, split.texts, split.videos, split.answers, BUDGET), warm=False)


def figures_of(place: Place, run: Callable[[], object], warm: bool = True) -> Figures:
    """Seconds of one run, and its peak memory beyond what was held before. `warm`: after an untimed run."""
    if warm:
        run()
    with measured(place.device) as cost:
        run()
    memory = {} if cost.peak_extra_mib is None else {"peak extra MiB": cost.peak_extra_mib}
    return {SECONDS: cost.seconds, **memory}
