"""Options of `python -m evaluate.compare`, with the same names and defaults in Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.cli.command_line import About


@dataclass(frozen=True)
class CompareOptions:
    """Put results of python -m evaluate into one table: means over training seeds, tests against a base, plots."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that python -m evaluate wrote, or folders that hold several, such as the output of a sweep with --evaluate. Results that
    differ only in the training seed share a row."""
    base: Annotated[Path | None, About.METRICS] = None
    """Folder of results to test all others against, with a paired bootstrap and McNemar's test. Results that differ from it only in the
    training seed belong to the base. Default: no tests."""
    by: Annotated[Literal["kind", "words", "seconds"] | None, About.METRICS] = None
    """Also compare on groups of the queries: by kind of caption, or in up to four ranges of the caption's length in words or the video's
    length in seconds. Default: all queries together."""
    sweep: Annotated[str | None, About.METRICS] = None
    """Training option, such as csc_weight: sort the table by it, and plot R@1 and RSum against it into --out, with standard deviations
    over seeds. If there is nothing to plot, a line says why."""
    allow_different: Annotated[bool, About.METRICS] = False
    """Compare results although splits, counts, protocols or tie rules differ. The table lists what differs; only results on the same
    queries are tested."""
    out: Annotated[Path | None, About.OUTPUT] = None
    """Folder for the table as text, Markdown, LaTeX and CSV, comparison.json, and plots as SVG and PNG. Default: write nothing."""
    format: Annotated[Literal["text", "markdown", "latex", "csv"], About.OUTPUT] = "text"
    """Format of the table on standard output."""
    seed: Annotated[int, About.METRICS] = 0
    """Seed of the paired bootstrap."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the contents of comparison.json as one line on standard output instead of the table."""
