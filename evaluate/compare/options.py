"""Options of `python -m evaluate.compare`, the same from the shell and from Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.cli.command_line import About


@dataclass(frozen=True)
class CompareOptions:
    """Put results of python -m evaluate into one table: means over the seeds of a training, tests against a base, plots."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that python -m evaluate wrote, or folders of them, such as that of a sweep with --evaluate. Those that differ in the seed of
    their training alone share a row."""
    base: Annotated[Path | None, About.METRICS] = None
    """Folder of results from which the differences of all others are tested, together with those that differ from it in the seed alone:
    paired bootstrap and McNemar. Default: no tests."""
    sweep: Annotated[str | None, About.METRICS] = None
    """Option of the training, such as csc_weight, in whose order the table is, and to draw R@1 and RSum against into OUT, with standard
    deviations over seeds. Where there is nothing to draw, that is said."""
    allow_different: Annotated[bool, About.METRICS] = False
    """Go on where splits, counts, protocols or rules for ties differ; the table says so, and tests stay where queries are the same."""
    out: Annotated[Path | None, About.OUTPUT] = None
    """Folder for the table as text, Markdown, LaTeX and CSV, comparison.json, and plots as SVG and PNG. Default: none is written."""
    format: Annotated[Literal["text", "markdown", "latex", "csv"], About.OUTPUT] = "text"
    """Form of the table on standard output."""
    seed: Annotated[int, About.METRICS] = 0
    """Seed of the resampled queries of the paired bootstrap."""
    json: Annotated[bool, About.OUTPUT] = False
    """What comparison.json holds as one JSON line on standard output, in place of the table."""
