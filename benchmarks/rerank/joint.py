"""Times re-ranking the candidates of one text: `python -m benchmarks.rerank.joint`.

Heads with random weights score one text with its candidates, from the features that the cache holds to the scores: `joint`, which reads
patch tokens, beside `tight` and `glccl`, which read frames alone. They run alternately. Wall time is that of all threads; processor time is
taken with one thread, which other work on the machine changes less. Memory is the peak of a separate process. Prints a table, then one line
of JSON.
"""

import json
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import seconds_interleaved
from benchmarks.scoring import ROOT
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cli.command import run_command
from evaluate.cost import measured
from train_head.heads import Head, HeadConfig, TextBatch, VideoBatch, make_head

HEADS = ("joint", "tight", "glccl")
REACH_MS = 30.0
"""What the re-ranker should stay below with 20 candidates on two cores."""

Row = dict[str, float | None]


@dataclass(frozen=True)
class RerankOptions:
    """Time the re-ranking of one text's candidates."""

    candidates: int = 20
    """Videos to score with the text."""
    words: int = 32
    """Tokens of the text, start and end included."""
    frames: int = 12
    """Frames of a video."""
    patches: int = 4
    """Patch tokens of a frame."""
    dimension: int = 512
    """Dimension of the features."""
    threads: int = 2
    """Threads for wall time and memory."""
    repeats: int = 30
    """Timed runs of each head; their median counts."""
    out: Path = ROOT / "runs" / "benchmarks" / "joint.json"
    """Output file (JSON)."""


@torch.no_grad()
def score(head: Head, texts: TextBatch, videos: VideoBatch) -> Tensor:
    """The scores of the candidates, from their features."""
    return head.scores(head.encode_texts(texts), head.encode_videos(videos))


def problem(name: str, options: RerankOptions) -> tuple[Head, TextBatch, VideoBatch]:
    """A head with random weights, a text and its candidates."""
    torch.manual_seed(0)
    d, frames = options.dimension, options.frames
    config = HeadConfig(
        d,
        options.words,
        100.0,
        max_frames=frames,
        patches=options.patches,
        temporal_positions=frames + 1,
        temporal_heads=max(1, d // 64),
    )
    head = make_head(name, config).requires_grad_(False).eval()
    text = TextBatch(torch.randn(1, d), torch.randn(options.words, d), torch.tensor([options.words]))
    shape = options.candidates, frames
    patch_BFMD = torch.randn(*shape, options.patches, d)
    return head, text, VideoBatch(torch.randn(*shape, d), torch.ones(shape, dtype=torch.bool), patch_BFMD)


def peak_mib(name: str, options: RerankOptions) -> float | None:
    """Peak memory in MiB beyond weights and features. Call it in a fresh process."""
    torch.set_num_threads(options.threads)
    head, texts, videos = problem(name, options)
    score(head, texts, problem(name, replace(options, candidates=1))[2])
    with measured(torch.device("cpu")) as cost:
        score(head, texts, videos)
    return cost.peak_extra_mib


def measure(options: RerankOptions) -> dict[str, Row]:
    """The figures of every head."""
    problems = {name: problem(name, options) for name in HEADS}
    sides = {name: partial(score, *given) for name, given in problems.items()}
    torch.set_num_threads(options.threads)
    wall = seconds_interleaved(sides, options.repeats, warm_up=HEADS)
    torch.set_num_threads(1)
    processor = seconds_interleaved(sides, options.repeats, warm_up=HEADS, clock=time.process_time)
    rows: dict[str, Row] = {}
    for name, (head, texts, videos) in problems.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peak = pool.submit(peak_mib, name, options).result()
        words, frames = texts.length_A.numpy(), videos.mask_BF.sum(dim=1).numpy()
        rows[name] = {
            "parameters": sum(parameter.numel() for parameter in head.parameters()),
            "MFLOP a pair": float(head.flops(words, frames[:1])[0]) / 1e6,
            "ms": 1000 * statistics.median(wall[name]),
            "shortest ms": 1000 * min(wall[name]),
            "processor ms, one thread": 1000 * statistics.median(processor[name]),
            "times glccl, processor": statistics.median(processor[name]) / statistics.median(processor["glccl"]),
            "peak MiB": peak,
        }
    return rows


def main(options: RerankOptions) -> Path:
    """Measure, print a table and a line of JSON, and write the figures to OUT."""
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, int) and value < 1:
            raise UserError(f"--{field.name} {value} must be at least 1")
    require_writable_file(options.out)
    before = torch.get_num_threads()
    try:
        rows = measure(options)
    finally:
        torch.set_num_threads(before)
    print(
        f"{options.candidates} candidates of a text of {options.words} words, {options.frames} frames of {options.patches} tokens x "
        f"{options.dimension}, {options.threads} threads; the reach of joint with 20 at 12 x 4 x 512 is {REACH_MS:g} ms"
    )
    columns = list(rows[HEADS[0]])
    print(f"{'head':8}" + "".join(f"{column:>26}" for column in columns))
    for name, row in rows.items():
        print(f"{name:8}" + "".join(f"{'' if value is None else f'{value:,.4g}':>26}" for value in row.values()))
    make_folder(options.out.parent)
    write_json(options.out, {"figures": rows, "provenance": provenance(options)})
    print(json.dumps(rows))
    sys.stdout.flush()
    return options.out


if __name__ == "__main__":
    run_command(RerankOptions, main, prog="python -m benchmarks.rerank.joint")
