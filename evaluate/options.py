"""Options of `python -m evaluate`, the same from the shell and from Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from data.cli.command_line import About
from data.cli.meaning import Meaning


@dataclass(frozen=True)
class EvaluateOptions:
    """Score all pairs of a split with a run and report retrieval metrics in both directions."""

    cache: Annotated[Path, About.INPUT, Meaning.FREE]
    """Folder of the feature cache."""
    run: Annotated[str, About.INPUT, Meaning.FREE]
    """Folder of a run, or zero-shot:HEAD for a head without training: glccl, glim-global, glim-local, mean or xclip."""
    out: Annotated[Path, About.OUTPUT, Meaning.FREE]
    """Folder for the results: empty, or of an earlier evaluation, whose files are replaced."""
    split: Annotated[Literal["test", "val", "train"], About.INPUT] = "test"
    """Split to evaluate."""
    preset: Annotated[str | None, About.INPUT] = None
    """Split protocol, where the cache serves several."""
    name: Annotated[str | None, About.INPUT] = None
    """Source in the cache, by the name that extract gave it. Default: all that have captions, together."""
    max_frames: Annotated[int | None, About.INPUT] = None
    """Frames used of each video, chosen evenly. Default: as the run was trained; all that are cached for zero-shot."""
    ties: Annotated[Literal["expected", "reference"], About.METRICS] = "expected"
    """Ties credited by expectation over their orders, or counted as the field's code does, to compare with a published figure."""
    allow_missing: Annotated[bool, About.INPUT] = False
    """Go on without captions and videos whose features are missing; results say how many there are."""
    memory_budget: Annotated[float | None, About.MACHINE, Meaning.FREE] = None
    """GiB of memory for features and for scoring them, which takes 0.3 itself at 512 dimensions; features beyond it are read when they are
    used. Default: half of the machine's memory."""
    dual_softmax: Annotated[bool, About.METRICS] = False
    """Add a row of figures after dual softmax, which reads the whole test matrix; scores all pairs once more."""
    query_bank: Annotated[int | None, About.METRICS] = None
    """Add a row of figures after QB-Norm with a bank of this many training captions; scores all pairs once more, and the bank's.
    Default: none."""
    seed: Annotated[int, About.METRICS] = 0
    """Seed of the resampled queries behind the 95% intervals, of the choice of the query bank, and of the report's choice among queries."""
    report: Annotated[bool, About.OUTPUT] = True
    """Write report.html, which needs nothing beside it, and its plots for papers."""
    candidates: Annotated[str | None, About.CANDIDATES] = None
    """Numbers K of candidates, with commas between them: add rows of figures of two-stage retrieval, text to video, where K videos from an
    index are scored exactly for each caption, and what that loses against scoring all. Default: none."""
    candidates_from: Annotated[Literal["frames", "pooled", "both"], About.CANDIDATES] = "frames"
    """Vectors of the index: those of all frames, the best frame of a video counting; or, cheaper, one a video, the mean of its frames."""
    index: Annotated[Path | None, About.CANDIDATES, Meaning.FREE] = None
    """Folder to keep the index in, for the next time. Default: it is built each time."""
    process_timeout: Annotated[float, About.MACHINE, Meaning.FREE] = 60.0
    """Under torchrun: seconds without a sign of life after which another process counts as lost."""
    products: Annotated[Literal["fp32", "bf16"], About.METRICS] = "fp32"
    """Precision of the large matrix products alone; bf16 is faster where the processor has it, and moves scores: docs/design/scoring.md."""
    device: Annotated[Literal["auto", "cpu", "cuda"], About.MACHINE, Meaning.FREE] = "auto"
    """Where to score; auto takes CUDA where there is one."""
    quiet: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """No progress."""
    json: Annotated[bool, About.OUTPUT, Meaning.FREE] = False
    """The result as one JSON line on standard output."""
