"""Scoring against the published formulation and against its own two matrix products: `python -m benchmarks.scoring`.

Caption lengths come from the genuine test files; features are random, learned matrices off the identity. All sides of a row run in turn,
several times, and the medians are compared; the last line is JSON. Shape suffixes as in train_head/glim.py.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.published import published_all_pairs, published_block
from data.command import run_command
from data.errors import UserError
from data.provenance import provenance, write_json
from extract.clip import load_clip
from train_head.heads import Head, HeadConfig, TextBatch, VideoBatch, make_head
from train_head.losses import contrastive_loss, csc_loss
from train_head.pairs import TEXTS_A_STRIP, VIDEOS_A_BLOCK

ROOT = Path(__file__).parent.parent
DIMENSION = 512


@dataclass(frozen=True)
class ScoringOptions:
    """Measure time and memory of scoring, side by side."""

    annotations: Path = ROOT.parent / "shared" / "annotations"
    """Folder with msrvtt/MSRVTT_JSFUSION_test.csv, didemo/test_data.json and didemo/test_list.txt."""
    repeats: int = 5
    """Runs of each side; medians are compared."""
    out: Path = ROOT / "runs" / "benchmarks" / "scoring.json"
    """File for the figures."""


@dataclass(frozen=True)
class Problem:
    """Random features with given caption lengths, and a head off the identity."""

    texts: TextBatch
    videos: VideoBatch
    head: Head

    @classmethod
    def make(cls, length_A: list[int], videos: int, frames: int, max_words: int) -> "Problem":
        generator = torch.Generator().manual_seed(0)

        def features(*shape: int) -> Tensor:
            # Norms near 10, as CLIP's features have.
            return torch.randn(*shape, DIMENSION, generator=generator) * 0.44

        head = make_head(HeadConfig("glccl", DIMENSION, max_words, logit_scale=100.0))
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                if parameter.ndim == 2:
                    spread = 0.1 if name.startswith("P") else DIMENSION**-0.5
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3 * spread)
        mask_AL = torch.arange(max_words) < torch.tensor(length_A)[:, None]
        word_ALD = features(len(length_A), max_words).masked_fill_(~mask_AL[..., None], 0)
        batch = VideoBatch(features(videos, frames), torch.ones(videos, frames, dtype=torch.bool))
        return cls(TextBatch(features(len(length_A)), word_ALD, mask_AL), batch, head)

    @torch.no_grad()
    def ours(self) -> Tensor:
        """The retrieval score [A, B] as `train_head.pairs` makes it, in its strips and blocks."""
        texts, videos = len(self.texts.mask_AL), len(self.videos.mask_BF)
        score_AB = torch.empty(texts, videos)
        for b in range(0, videos, VIDEOS_A_BLOCK):
            columns = slice(b, b + VIDEOS_A_BLOCK)
            encoded = self.head.encode_videos(VideoBatch(self.videos.frame_BFD[columns], self.videos.mask_BF[columns]))
            for a in range(0, texts, TEXTS_A_STRIP):
                rows = slice(a, a + TEXTS_A_STRIP)
                strip = TextBatch(self.texts.sentence_AD[rows], self.texts.word_ALD[rows], self.texts.mask_AL[rows])
                score_AB[rows, columns] = self.head.scores(self.head.encode_texts(strip), encoded).mean(dim=0)
        return score_AB

    def published(self) -> Tensor:
        """The same by the published formulation."""
        texts, videos = self.texts, self.videos
        matrices = {name: value.detach() for name, value in self.head.named_parameters()}
        return published_all_pairs(texts.sentence_AD, texts.word_ALD, texts.mask_AL, videos.frame_BFD, videos.mask_BF, matrices)

    def two_products(self) -> Callable[[], None]:
        """torch.mm of the real words with all frames, twice, into memory that is there already."""
        word_RD = self.texts.word_ALD[self.texts.mask_AL]
        frame_DC = self.videos.frame_BFD.flatten(0, 1).T.contiguous()
        outs = [torch.empty(len(word_RD), frame_DC.shape[1]) for _ in range(2)]

        def run() -> None:
            for out in outs:
                torch.mm(word_RD, frame_DC, out=out)

        return run

    def step(self, published: bool) -> float:
        """Forward and backward of head and loss on the batch, text a belonging to video a; the loss."""
        self.head.zero_grad()
        if published:
            texts, videos = self.texts, self.videos
            matrices = dict(self.head.named_parameters())
            block = published_block(texts.sentence_AD, texts.word_ALD, texts.mask_AL, videos.frame_BFD, videos.mask_BF, matrices)
            scores_SAB = block * self.head.scale()
        else:
            scores_SAB = self.head.scores(self.head.encode_texts(self.texts), self.head.encode_videos(self.videos))
        loss = contrastive_loss(scores_SAB.mean(dim=0)) + 0.5 * csc_loss(scores_SAB)
        loss.backward()
        return loss.item()


def medians(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each side: medians of runs taken in turn, after one run that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            if turn == 0 and name == "published":
                continue  # it compiles nothing, and a run of it takes long
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
            print(f"  {name}: {time.perf_counter() - start:.3f} s{'' if turn else ' (warm-up)'}", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


def extra_memory(side: str, length_A: list[int], videos: int, frames: int, max_words: int) -> float:
    """Peak memory in MiB of one side beyond inputs and score matrix, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_extra_memory, side, length_A, videos, frames, max_words).result()


def _extra_memory(side: str, length_A: list[int], videos: int, frames: int, max_words: int) -> float:
    # A small run first, so that libraries and compiled code do not count.
    _run_side(Problem.make(length_A[:70], 70, frames, max_words), side)
    problem = Problem.make(length_A, videos, frames, max_words)
    before = _status_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
    _run_side(problem, side)
    matrix = 0 if side.startswith("step") else len(length_A) * videos * 4 / 1024
    return (_status_kib("VmHWM") - before - matrix) / 1024


def _run_side(problem: Problem, side: str) -> None:
    if side.startswith("step"):
        problem.step(published=side == "step published")
    elif side == "published":
        problem.published()
    else:
        problem.ours()


def _status_kib(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def caption_lengths(annotations: Path) -> tuple[list[int], list[int]]:
    """Tokens, start and end included, of the captions of MSR-VTT 1k-A (at most 32) and the paragraphs of DiDeMo's test split (64)."""
    try:
        captions = pd.read_csv(annotations / "msrvtt" / "MSRVTT_JSFUSION_test.csv")["sentence"].tolist()
        records = json.loads((annotations / "didemo" / "test_data.json").read_text())
        listed = (annotations / "didemo" / "test_list.txt").read_text().split()
    except OSError as error:
        raise UserError(f"--annotations {annotations}: {error}") from error
    paragraphs: dict[str, list[str]] = {name: [] for name in listed}
    for record in records:
        if record["video"] in paragraphs:
            paragraphs[record["video"]].append(record["description"])
    tokenizer = load_clip(f"local-dir:{ROOT / 'demo' / 'clip'}", None, torch.device("cpu")).tokenizer

    def lengths(texts: list[str], most: int) -> list[int]:
        return (tokenizer(texts, context_length=most).argmax(dim=-1) + 1).tolist()  # type: ignore[no-any-return]

    return lengths(captions, 32), lengths([" ".join(parts) for parts in paragraphs.values()], 64)


def main(options: ScoringOptions) -> Path:
    """Measure, print the figures and write them to OUT."""
    msrvtt, didemo = caption_lengths(options.annotations)
    figures: dict[str, dict[str, float]] = {}
    shapes = {"msrvtt 1000 x 1000": (msrvtt, 1000, 12, 32), "didemo 256 x 256": (didemo[:256], 256, 32, 64)}
    for name, shape in shapes.items():
        print(name, file=sys.stderr)
        problem = Problem.make(*shape)
        sides: dict[str, Callable[[], object]] = {
            "published": problem.published,
            "ours": problem.ours,
            "two products": problem.two_products(),
        }
        row = medians(sides, options.repeats)
        corner = Problem.make(shape[0][:64], 64, *shape[2:])
        row["times faster than published"] = row["published"] / row["ours"]
        row["times the two products"] = row["ours"] / row["two products"]
        row["largest difference, 64 x 64"] = float((corner.ours() - corner.published()).abs().max())
        row["published extra MiB"] = extra_memory("published", shape[0][:64], 64, *shape[2:])
        row["ours extra MiB"] = extra_memory("ours", *shape)
        row["memory ratio"] = row["published extra MiB"] / row["ours extra MiB"]
        figures[name] = row
    print("training step, batch 128", file=sys.stderr)
    step_shape = (msrvtt[:128], 128, 12, 32)
    problem = Problem.make(*step_shape)
    row = medians({"published": lambda: problem.step(True), "ours": lambda: problem.step(False)}, options.repeats)
    row["times faster than published"] = row["published"] / row["ours"]
    row["published extra MiB"] = extra_memory("step published", *step_shape)
    row["ours extra MiB"] = extra_memory("step ours", *step_shape)
    row["memory ratio"] = row["published extra MiB"] / row["ours extra MiB"]
    figures["training step, batch 128"] = row
    print("gallery of 1,000 and 10,000", file=sys.stderr)
    small, large = (Problem.make(msrvtt, videos, 12, 32) for videos in (1000, 10_000))
    row = medians({"1,000 videos": small.ours, "10,000 videos": large.ours}, options.repeats)
    row["time for ten times the gallery"] = row["10,000 videos"] / row["1,000 videos"]
    del small, large
    row["1,000 videos extra MiB"] = extra_memory("ours", msrvtt, 1000, 12, 32)
    row["10,000 videos extra MiB"] = extra_memory("ours", msrvtt, 10_000, 12, 32)
    figures["gallery grown tenfold, 1000 queries"] = row
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:32} {value:10.4g}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"figures": figures, "threads": torch.get_num_threads(), "provenance": provenance(options)})
    print(
        json.dumps(
            {
                name: {key: float(np.format_float_positional(v, 4, fractional=False)) for key, v in row.items()}
                for name, row in figures.items()
            }
        )
    )
    return options.out


if __name__ == "__main__":
    run_command(ScoringOptions, main, prog="python -m benchmarks.scoring")
