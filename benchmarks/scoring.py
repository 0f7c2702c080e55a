"""Compares scoring with the published formulation and with its two matrix products alone: `python -m benchmarks.scoring`.

Caption lengths come from the data sets' test files. Features are random, and the learned matrices differ from the identity. The
alternatives ("sides") of a row run alternately, and their medians are compared. The last line of the output is JSON.

Shape suffixes as in train_head/glim.py.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.measure import seconds_interleaved
from benchmarks.published import published_all_pairs, published_block
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache.features import Ragged, TextFeatures, VideoFeatures
from data.cli.command import run_command
from evaluate.cost import measured
from extract.encode.clip import load_clip
from train_head.glim import glim_scores
from train_head.heads import DEFAULT_EXECUTION, Execution, HeadConfig, TextBatch, VideoBatch
from train_head.heads.glccl import GlcclHead
from train_head.kernels.blocks import text_blocks
from train_head.kernels.fused import fused_score, lane_videos, tile_texts
from train_head.kernels.plain import Guides, prepare_texts, prepare_videos, score
from train_head.losses import contrastive_loss, csc_loss
from train_head.scoring.pairs import Unshared, score_all_pairs

ROOT = Path(__file__).parent.parent
DIMENSION = 512
HELD = 12 * 2**20
"""Bytes of encoded videos held at once, as `evaluate --memory-budget` sets it; low, so that the minimum of memory is compared."""


Shape = tuple[list[int], int, int, int]
"""Caption lengths, number of videos, frames per video, max words."""
Row = dict[str, float]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Sentences [A, D], words [A, L, D], word mask [A, L], frames [B, F, D], frame mask [B, F]."""


@dataclass(frozen=True)
class ScoringOptions:
    """Measure time and memory of scoring against its alternatives."""

    annotations: Path = ROOT.parent / "shared" / "annotations"
    """Folder with msrvtt/MSRVTT_JSFUSION_test.csv, didemo/test_data.json and didemo/test_list.txt."""
    repeats: int = 5
    """Runs of each alternative; medians are compared."""
    only: str = ""
    """Measure only the rows whose names contain this text. Default: all rows."""
    out: Path = ROOT / "runs" / "benchmarks" / "scoring.json"
    """Output file (JSON)."""


class Matrix(Unshared):
    """Collects all retrieval scores from `score_all_pairs`, where an evaluation would count ranks; on the head's device."""

    def __init__(self, texts: int, videos: int, device: torch.device) -> None:
        self.score_AB = torch.empty(texts, videos, device=device)

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Store a block."""
        device = self.score_AB.device
        self.score_AB[texts.to(device)[:, None], videos.to(device)] = scores_SAB.mean(dim=0)


@dataclass(frozen=True)
class Problem:
    """Random features with given caption lengths, and a head whose matrices differ from the identity. All sides run on its device."""

    texts: TextFeatures
    videos: VideoFeatures
    head: GlcclHead
    max_words: int

    @classmethod
    def make(cls, length_A: list[int], videos: int, frames: int, max_words: int, execution: Execution = DEFAULT_EXECUTION) -> "Problem":
        generator = torch.Generator().manual_seed(0)

        def features(lengths: list[int]) -> Ragged:
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            # Norms near 10, like those of CLIP's features.
            return Ragged.in_memory((torch.randn(int(offsets[-1]), DIMENSION, generator=generator) * 0.44).numpy(), offsets)

        head = off_identity(GlcclHead("glccl", HeadConfig(DIMENSION, max_words, logit_scale=100.0), execution), generator)
        texts = TextFeatures([""] * len(length_A), features(length_A), features([1] * len(length_A)))
        gallery = VideoFeatures([""] * videos, features([frames] * videos), [np.arange(frames, dtype=np.float64)] * videos)
        return cls(texts, gallery, head, max_words)

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return self.head.logit_scale.device

    def ours(self) -> Tensor:
        """Retrieval scores [A, B], computed as in an evaluation, with a few blocks of videos in memory at a time."""
        matrix = Matrix(len(self.texts.texts), len(self.videos.ids), self.device)
        answers = np.arange(len(self.texts.texts)) % len(self.videos.ids)
        score_all_pairs(self.head, self.texts, self.videos, answers, [matrix], memory_budget=HELD)
        return matrix.score_AB

    @torch.no_grad()
    def uncompiled(self) -> Tensor:
        """The same with plain PyTorch operations, the fallback of the compiled loops: captions grouped by length, 256 videos at once."""
        texts, videos = self.batch()
        score_AB = torch.empty(len(texts.length_A), len(videos.mask_BF), device=self.device)
        for first in range(0, len(videos.mask_BF), 256):
            columns = slice(first, first + 256)
            prepared = prepare_videos(videos.frame_BFD[columns], videos.mask_BF[columns])
            for rows, guides in self.guides(texts):
                score_AB[rows, columns] = score(guides, prepared, self.head.matrices()).mean(dim=0)[: len(rows)] * 100
        return score_AB

    @torch.no_grad()
    def function(self) -> Tensor:
        """The same with one call of `glim_scores`, the function for researchers, on padded features."""
        return glim_scores(*self.inputs(), self.head.matrices()).mean(dim=0)

    @torch.no_grad()
    def published(self, inputs: Inputs | None = None) -> Tensor:
        """The same with the published formulation."""
        matrices = {name: value.detach() for name, value in self.head.named_parameters()}
        return published_all_pairs(*(inputs or self.inputs()), matrices)

    def two_products(self, most_rows: int | None = None) -> Callable[[], None]:
        """Only the two matrix products of unpadded words with all frames, by torch.mm into preallocated memory.

        `most_rows`: words at a time, where the products of all would not fit into memory.
        """
        texts, videos = self.batch()
        frame_DC = videos.frame_BFD.flatten(0, 1).T.contiguous()
        pieces = texts.word_RD.split(most_rows or len(texts.word_RD))
        outs = [torch.empty(len(pieces[0]), frame_DC.shape[1], device=self.device) for _ in range(2)]

        def run() -> None:
            for piece_RD in pieces:
                for out in outs:
                    torch.mm(piece_RD, frame_DC, out=out[: len(piece_RD)])

        return run

    def step(self, side: str, inputs: Inputs | None = None) -> float:
        """Run forward and backward of head and loss on one batch, where text a matches video a, and return the loss."""
        self.head.zero_grad()
        matrices, threads = self.head.matrices(), torch.get_num_threads()
        if side == "published":
            scores_SAB = published_block(*(inputs or self.inputs()), matrices)
        elif side == "function":
            scores_SAB = glim_scores(*self.inputs(), matrices, logit_scale=1.0)
        elif side == "uncompiled":
            texts, videos = self.batch()
            prepared = prepare_videos(videos.frame_BFD, videos.mask_BF)
            blocks = self.guides(texts)
            by_length_SAB = torch.cat([score(guides, prepared, matrices) for _, guides in blocks], dim=1)
            scores_SAB = by_length_SAB[:, torch.cat([rows for rows, _ in blocks]).argsort()]
        else:
            texts, videos = self.batch()
            scores_SAB = fused_score(tile_texts(texts, matrices, threads), lane_videos(videos), matrices, threads)
        scores_SAB = scores_SAB * self.head.scale()
        loss = contrastive_loss(scores_SAB.mean(dim=0)) + 0.5 * csc_loss(scores_SAB)
        loss.backward()
        return loss.item()

    def guides(self, texts: TextBatch) -> list[tuple[Tensor, Guides]]:
        """Blocks of texts of similar length, for the uncompiled operations."""
        blocks = text_blocks(texts, words=True, alone=False, most=self.max_words)
        return [(b.rows, prepare_texts(b.sentence_AD, b.word_ALD, b.mask_AL, self.head.matrices())) for b in blocks]

    def batch(self) -> tuple[TextBatch, VideoBatch]:
        """Everything as one batch."""
        return (
            TextBatch.gather(self.texts, range(len(self.texts.texts)), self.device),
            VideoBatch.gather(self.videos, range(len(self.videos.ids)), self.device),
        )

    def inputs(self) -> Inputs:
        """All features, padded as the field's loaders pad them."""
        texts, videos = self.batch()
        mask_AL = (torch.arange(self.max_words) < texts.length_A[:, None]).to(self.device)
        word_ALD = torch.zeros(*mask_AL.shape, DIMENSION, device=self.device)
        word_ALD[mask_AL] = texts.word_RD
        return texts.sentence_AD, word_ALD, mask_AL, videos.frame_BFD, videos.mask_BF


@torch.no_grad()
def off_identity(head: GlcclHead, generator: torch.Generator) -> GlcclHead:
    """The head, on a CPU, after a random change of its matrices, which start at the identity."""
    for name, parameter in head.named_parameters():
        if parameter.ndim == 2:
            spread = 0.1 if name.startswith("P") else DIMENSION**-0.5
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3 * spread)
    return head


def medians(sides: Mapping[str, Callable[[], object]], repeats: int) -> Row:
    """Median seconds of each side. The sides run alternately, after an untimed run of each."""
    # "published" needs no warm-up, because it compiles nothing, and a run of it takes long.
    seconds = seconds_interleaved(sides, repeats, sides.keys() - {"published"})
    return {name: statistics.median(values) for name, values in seconds.items()}


def extra_memory(side: str, length_A: list[int], videos: int, frames: int, max_words: int) -> float:
    """Peak memory in MiB of one side, without inputs and score matrix, measured in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_extra_memory, side, length_A, videos, frames, max_words).result()


def _extra_memory(side: str, *shape: *Shape) -> float:
    length_A, videos, frames, max_words = shape
    # A small run loads libraries and compiled code before the measurement.
    _side(Problem.make(length_A[:70], 70, frames, max_words), side)()
    run = _side(Problem.make(*shape), side)
    with measured(torch.device("cpu")) as cost:
        run()
    assert cost.peak_extra_mib is not None, "measured on Linux alone"
    matrix = 0 if side.startswith("step") else len(length_A) * videos * 4 / 2**20
    return cost.peak_extra_mib - matrix


def _side(problem: Problem, side: str) -> Callable[[], object]:
    """One side, ready to run. The published side gets padded inputs, made ahead; ours gets features as they are loaded."""
    if side == "ours":
        return problem.ours
    if side == "step ours":
        return partial(problem.step, "ours")
    inputs = problem.inputs()
    return partial(problem.published, inputs) if side == "published" else partial(problem.step, "published", inputs)


def caption_lengths(annotations: Path) -> tuple[list[int], list[int]]:
    """Token counts, including start and end, of MSR-VTT 1k-A's captions (at most 32) and of DiDeMo's test paragraphs (at most 64)."""
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
        return [min(most, len(tokenizer.encode(text))) for text in texts]

    return lengths(captions, 32), lengths([" ".join(parts) for parts in paragraphs.values()], 64)


def all_pairs(shape: Shape, repeats: int) -> Row:
    """Time and memory of scoring all texts with all videos."""
    problem = Problem.make(*shape)
    sides: dict[str, Callable[[], object]] = {
        "published": problem.published,
        "ours": problem.ours,
        "function": problem.function,
        "uncompiled": problem.uncompiled,
        "two products": problem.two_products(),
    }
    row = medians(sides, repeats)
    row["times faster than published"] = row["published"] / row["ours"]
    row["function, times faster"] = row["published"] / row["function"]
    row["times the two products"] = row["ours"] / row["two products"]
    corner = Problem.make(shape[0][:64], 64, *shape[2:])
    row["largest difference, 64 x 64"] = float((corner.ours() - corner.published()).abs().max())
    # The published formulation works block by block, so one block shows its peak.
    return row | memory(("published", (shape[0][:64], 64, *shape[2:])), ("ours", shape))


def training_step(shape: Shape, repeats: int) -> Row:
    """Time and memory of forward and backward of head and loss."""
    problem = Problem.make(*shape)
    row = medians({side: partial(problem.step, side) for side in ("published", "ours", "function", "uncompiled")}, repeats)
    row["times faster than published"] = row["published"] / row["ours"]
    row["function, times faster"] = row["published"] / row["function"]
    row["uncompiled, times faster"] = row["published"] / row["uncompiled"]
    return row | memory(("step published", shape), ("step ours", shape))


def gallery(length_A: list[int], repeats: int) -> Row:
    """Time and memory with a gallery ten times as large."""
    small, large = (Problem.make(length_A, videos, 12, 32) for videos in (1000, 10_000))
    row = medians({"1,000 videos": small.ours, "10,000 videos": large.ours}, repeats)
    row["time for ten times the gallery"] = row["10,000 videos"] / row["1,000 videos"]
    del small, large
    row["1,000 videos extra MiB"] = extra_memory("ours", length_A, 1000, 12, 32)
    row["10,000 videos extra MiB"] = extra_memory("ours", length_A, 10_000, 12, 32)
    return row


def lower_precision(length_A: list[int], repeats: int) -> Row:
    """Speed and error of the two matrix products in bfloat16, against float32."""
    exact, rough = (
        Problem.make(length_A, 1000, 12, 32, execution) for execution in (DEFAULT_EXECUTION, Execution(products=torch.bfloat16))
    )
    row = medians({"fp32": exact.ours, "bf16": rough.ours}, repeats)
    row["times faster"] = row["fp32"] / row["bf16"]
    ours, theirs = exact.ours(), rough.ours()
    row["largest difference"] = float((ours - theirs).abs().max())
    row["queries with the same first video"] = float((ours.argmax(dim=1) == theirs.argmax(dim=1)).float().mean())
    ranks = [(scores > scores.diagonal()[:, None]).sum(dim=1) for scores in (ours, theirs)]
    row["queries with the same rank"] = float((ranks[0] == ranks[1]).float().mean())
    return row


def scaling(repeats: int) -> Row:
    """Time with one size doubled or quadrupled, relative to 500 texts of 12 words and 500 videos of 12 frames."""
    base = {"texts": 500, "words": 12, "videos": 500, "frames": 12}
    problems = {"base": base} | {f"{name} x {times}": base | {name: base[name] * times} for name in base for times in (2, 4)}
    sides = {
        name: Problem.make([size["words"]] * size["texts"], size["videos"], size["frames"], size["words"]).ours
        for name, size in problems.items()
    }
    row = medians(sides, repeats)
    return {name: seconds / row["base"] for name, seconds in row.items()}


def long_texts(repeats: int) -> Row:
    """Time for longer texts and for larger learned matrices, relative to 12 words with matrices for 32 words."""
    sizes = {f"{words} words, matrices for {most}": (words, most) for words, most in ((12, 32), (12, 77), (32, 77), (64, 77), (77, 77))}
    sides = {name: Problem.make([words] * 200, 200, 12, most).ours for name, (words, most) in sizes.items()}
    row = medians(sides, repeats)
    base = next(iter(row.values()))
    return {name: seconds / base for name, seconds in row.items()}


def memory(published: tuple[str, Shape], ours: tuple[str, Shape]) -> Row:
    """Peak memory of the published formulation and of ours, and their ratio."""
    theirs, own = extra_memory(published[0], *published[1]), extra_memory(ours[0], *ours[1])
    return {"published extra MiB": theirs, "ours extra MiB": own, "memory ratio": theirs / own}


def main(options: ScoringOptions) -> Path:
    """Measure, print the results and write them to OUT."""
    require_writable_file(options.out)
    msrvtt, didemo = caption_lengths(options.annotations)
    rows: dict[str, Callable[[], Row]] = {
        "msrvtt 1000 x 1000": lambda: all_pairs((msrvtt, 1000, 12, 32), options.repeats),
        "didemo 256 x 256": lambda: all_pairs((didemo[:256], 256, 32, 64), options.repeats),
        "training step, batch 128": lambda: training_step((msrvtt[:128], 128, 12, 32), options.repeats),
        "gallery grown tenfold, 1000 queries": lambda: gallery(msrvtt, options.repeats),
        "products in bfloat16, 1000 x 1000": lambda: lower_precision(msrvtt, options.repeats),
        "time over that of 500 x 500, 12 words, 12 frames": lambda: scaling(options.repeats),
        "long texts, 200 x 200, time over that of 12 words": lambda: long_texts(options.repeats),
    }
    figures: dict[str, Row] = {}
    for name, measure in rows.items():
        if options.only in name:
            print(name, file=sys.stderr)
            figures[name] = measure()
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:34} {value:10.4g}")
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "threads": torch.get_num_threads(), "provenance": provenance(options)})
    print(json.dumps({name: {key: float(f"{v:.4g}") for key, v in row.items()} for name, row in figures.items()}))
    return options.out


if __name__ == "__main__":
    run_command(ScoringOptions, main, prog="python -m benchmarks.scoring")
