"""Options of `python -m evaluate`, with the same names and defaults in Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from data.cli.command_line import About
from data.cli.meaning import DeviceName, Meaning, SavesMemory


@dataclass(frozen=True)
class EvaluateOptions:
    """Score all text-video pairs of a split with a run, and report retrieval metrics in both directions."""

    cache: Annotated[Path, About.INPUT, Meaning.FREE]
    """Folder of the feature cache."""
    run: Annotated[str, About.INPUT, Meaning.FREE]
    """Folder of a run, or zero-shot:HEAD for an untrained head: glccl, glim-global, glim-local, mean, xclip, dp, ti, meanmaxsim, or
    package.module:Class."""
    out: Annotated[Path, About.OUTPUT, Meaning.FREE]
    """Folder for the results: empty, or from an earlier evaluation, whose files are replaced."""
    split: Annotated[Literal["test", "val", "train"], About.INPUT] = "test"
    """Split to evaluate."""
    preset: Annotated[str | None, About.INPUT] = None
    """Split protocol, if the cache serves several."""
    name: Annotated[str | None, About.INPUT] = None
    """Source in the cache, by the name that extract gave it. Default: all sources that have captions, together."""
    max_frames: Annotated[int | None, About.INPUT] = None
    """Frames to use from each video, evenly spaced. Default: as in training; for zero-shot, all cached frames."""
    tau: Annotated[float | None, About.INPUT] = None
    """Temperature of the guidance, for glccl, its halves and glscl. Default: as in training; for zero-shot, the paper's, 5."""
    zero_shot_tau_from: Annotated[Literal["val"] | None, About.INPUT] = None
    """For an untrained head: choose tau on the validation split, by the sum of recalls, among 18 values from 0.005 to 640. Nothing is
    trained. Default: do not choose."""
    kappa: Annotated[float | None, About.INPUT] = None
    """Temperature of the interaction, for glccl, its halves and xclip. Default: as in training; for zero-shot, the paper's, 0.01."""
    ties: Annotated[Literal["expected", "reference"], About.METRICS] = "expected"
    """How ties count: by expectation over their orders, or as the field's reference code counts them, to compare with published results."""
    allow_missing: Annotated[bool, About.INPUT] = False
    """Leave out captions and videos whose features are missing, and report how many there are."""
    memory_budget: Annotated[float | None, About.MACHINE, Meaning.FREE, SavesMemory("a smaller --memory-budget")] = None
    """GiB of memory for features and scoring; scoring alone takes 0.3 at 512 dimensions. Features that do not fit are read from disk when
    they are used. Default: half of the machine's memory."""
    dual_softmax: Annotated[bool, About.METRICS] = False
    """Add metrics after dual softmax, which reads the whole test matrix. Scores all pairs once more."""
    query_bank: Annotated[int | None, About.METRICS] = None
    """Add metrics after QB-Norm with a bank of this many training captions. Scores all pairs once more, and the bank with all videos.
    Default: none."""
    seed: Annotated[int, About.METRICS] = 0
    """Seed of the bootstrap behind the 95% intervals, of the query bank, and of the queries that the report shows."""
    report: Annotated[bool, About.OUTPUT] = True
    """Write a self-contained report.html, and its plots as files for papers."""
    save_scores: Annotated[Path | None, About.OUTPUT] = None
    """NAME.npy: also write the matrix of scores, texts x videos, as it is scored, with its ids beside it as NAME.texts.parquet and
    NAME.videos.parquet. Default: none."""
    save_scores_of: Annotated[str, About.OUTPUT] = "mean"
    """Scores in the matrix: mean (what ranks), one of the head's scores by name, such as word-frame, several joined by + for their mean, or
    all, for an array with one matrix per score."""
    save_scores_dtype: Annotated[Literal["float32", "float16"], About.OUTPUT] = "float32"
    """Type of the matrix. float32 keeps every bit. float16 takes half the room, rounds to 11 bits, which makes ties, and refuses scores
    above 65504."""
    run_file: Annotated[Path | None, About.OUTPUT] = None
    """NAME.trec: also write both directions as TREC runs, with judgements as NAME.qrels, for trec_eval or ranx. Default: none."""
    run_depth: Annotated[int, About.OUTPUT] = 1000
    """Documents per query in the runs."""
    candidates: Annotated[str | None, About.CANDIDATES] = None
    """Comma-separated numbers K: add text-to-video metrics of two-stage retrieval, which scores only K videos from an index for each
    caption, and the loss against scoring all videos. Default: none."""
    candidates_from: Annotated[Literal["frames", "pooled", "both", "words"], About.CANDIDATES] = "frames"
    """Vectors in the index. frames: one per frame, and a video is found by its best frame. pooled: one per video, the mean of its frames,
    which is cheaper. both: a row for each of these. words: those of frames, asked for the sentence and for each of its content words."""
    candidates_run: Annotated[str | None, About.CANDIDATES, Meaning.FREE] = None
    """Folder of a run, or zero-shot:HEAD, that scores all pairs in place of --run. With K of --candidates, --run then scores only the K
    best videos of each text and the K best texts of each video; the others follow as the first run ranks them. For heads too slow for all
    pairs. Default: find candidates with an index, and score all pairs as well."""
    index: Annotated[Path | None, About.CANDIDATES, Meaning.FREE] = None
    """Folder that keeps the index for the next evaluation. Default: build it each time."""
    process_timeout: Annotated[float, About.MACHINE, Meaning.FREE] = 60.0
    """Under torchrun: seconds without a heartbeat after which another process counts as lost."""
    products: Annotated[Literal["fp32", "bf16"], About.METRICS] = "fp32"
    """Precision of the large matrix products alone; bf16 is faster where the processor has it, and moves scores: docs/design/scoring.md."""
    device: Annotated[DeviceName, About.MACHINE, Meaning.FREE] = "auto"
    """Where to score; auto uses CUDA if it is available, else the CPU. mps is for GPUs of Apple, and untested."""
    quiet: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Show no progress."""
    json: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """Print the result as one line of JSON on standard output."""
