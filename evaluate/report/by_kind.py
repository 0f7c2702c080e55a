"""The section of the report with the metrics of groups of queries: by kind of caption, by its length, and by the length of the video."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data.base.quoting import visible
from data.metrics import DIRECTIONS, RECALL_NAMES
from evaluate.breakdown.table import left_out_lines
from evaluate.report.plots import DIRECTION_NAMES, FIRST, INK, SECOND, Plot, render

TITLES = {"kind": "By kind of caption", "words": "By length of caption", "seconds": "By length of video"}
SHOWN = RECALL_NAMES[0]
"""The metric of the pictures."""
LONGEST_LABEL = 26
"""Characters of a name in a picture; the table has the whole name."""
GROUP_HEIGHT, FRAME_HEIGHT = 0.42, 0.9
"""Inches for the bars of a group, and for the rest of a picture."""


@dataclass(frozen=True)
class Section:
    """The groups of queries by a trait: their picture, their rows (as in metrics.json), and notes."""

    name: str
    plot: Plot
    groups: list[dict[str, Any]]
    notes: list[str]


def draw_breakdown(folder: Path, breakdown: Mapping[str, Any]) -> list[Section]:
    """Draw the groups by every trait that divides the queries, and write the pictures into `folder`. A single group divides them if some
    queries are in none.

    breakdown: see `evaluate.breakdown.figures.breakdown`.
    """
    return [_section(folder, by, found) for by, found in breakdown.items() if len(found["groups"]) > 1 or any(found["left_out"].values())]


def _section(folder: Path, by: str, found: Mapping[str, Any]) -> Section:
    groups = [{**group, "name": visible(group["name"])} for group in found["groups"]]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        place = np.arange(len(groups))
        looks: tuple[dict[str, Any], ...] = (
            {"color": FIRST, "edgecolor": FIRST},
            {"color": "none", "edgecolor": SECOND, "hatch": "////"},
        )
        for direction, name, shift, look in zip(DIRECTIONS, DIRECTION_NAMES, (-0.2, 0.2), looks, strict=True):
            # Without queries of a direction there is no bar.
            rows = [i for i, group in enumerate(groups) if group[direction] is not None]
            if not rows:  # the legend would show the direction in another colour
                continue
            value = np.array([groups[i][direction][SHOWN] for i in rows])
            low, high = np.array([groups[i][direction]["intervals"][SHOWN] for i in rows]).reshape(-1, 2).T
            axes.barh(place[rows] + shift, value, 0.38, label=name, **look)
            ends = np.maximum([value - low, high - value], 0)
            axes.errorbar(value, place[rows] + shift, xerr=ends, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        axes.set_yticks(place, [_label(group["name"]) for group in groups], parse_math=False)
        axes.grid(visible=False, axis="y")
        axes.set(xlim=(0, 101), ylim=(len(groups) - 0.5, -0.5), xlabel=f"{SHOWN} (%)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)

    caption = f"{SHOWN} of each group of queries, with 95% bootstrap intervals."
    height = FRAME_HEIGHT + GROUP_HEIGHT * len(groups)
    with warnings.catch_warnings():
        # The page shows every script; the files have boxes for characters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        plot = render(folder, f"by-{by}", TITLES[by], caption, f"{'; '.join(_spoken(groups))}.", draw, height)
    return Section(by, plot, groups, list(left_out_lines(found["left_out"], found["further_kinds"])))


def _spoken(groups: list[dict[str, Any]]) -> Iterator[str]:
    """The numbers of a picture as text, for each direction."""
    for direction, name in zip(DIRECTIONS, DIRECTION_NAMES, strict=True):
        there = [group for group in groups if group[direction] is not None]
        yield f"{name}: {', '.join('{} {:.1f}%'.format(group['name'], group[direction][SHOWN]) for group in there)}"


def _label(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"
