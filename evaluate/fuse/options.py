"""Options of `python -m evaluate.fuse`, with the same names and defaults in Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.cli.command_line import About


@dataclass(frozen=True)
class FuseOptions:
    """Combine matrices of scores of the same texts and videos, and report retrieval metrics in both directions."""

    matrices: tyro.conf.Positional[tuple[Path, ...]]
    """Matrices that python -m evaluate --save-scores wrote, in any order of texts and videos."""
    out: Annotated[Path, About.OUTPUT]
    """Folder for the results: empty, or from an earlier evaluation, whose files are replaced."""
    method: Annotated[Literal["sum", "rrf"], About.METRICS] = "sum"
    """sum: the weighted sum of the normalised scores. rrf: reciprocal rank fusion, the weighted sum of 1 / (k + rank); ties share their
    expected rank."""
    weights: Annotated[str | None, About.METRICS] = None
    """Weights of the matrices, separated by commas; any sum. Default: all equal."""
    normalize: Annotated[Literal["z-score", "min-max", "softmax", "none"], About.METRICS] = "z-score"
    """With --method sum. z-score and min-max: by mean and standard deviation, or by minimum and maximum, of the whole matrix, so that a
    weight means the same for every scale of scores and no matrix changes its own ranks. softmax: over what a query ranks, all texts or
    all videos, in each direction."""
    rrf_k: Annotated[float, About.METRICS] = 60.0
    """With --method rrf: the constant k, by which first ranks differ less."""
    seed: Annotated[int, About.METRICS] = 0
    """Seed of the bootstrap behind the 95% intervals."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Show no progress."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the result as one line of JSON on standard output."""
