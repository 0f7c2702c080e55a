"""The plots of the report: inline SVG that follows the page's colours and fonts, and PNG and SVG files for papers. All deterministic.

Shape suffixes: A texts, S scores of a pair, Q queries, B videos.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data.base.whole_files import written_whole
from data.base.writable import make_folder
from data.metrics import Ranks
from evaluate.compare.curves import match_curve
from evaluate.report import PLOT_FORMATS, PLOT_NAMES
from evaluate.report.collect import Collected
from evaluate.report.findings import Hubs
from evaluate.report.variance import power, score_variance

DIRECTION_NAMES = ("text to video", "video to text")

# Colours in the files. In the page, each is replaced by a CSS variable, whose value depends on the theme, so no two may be equal.
INK, FAINT, FIRST, SECOND = "#1c2430", "#c9d0d9", "#1f5fa8", "#b3491a"
VARIABLES = {INK: "var(--ink)", FAINT: "var(--line)", FIRST: "var(--first)", SECOND: "var(--second)"}

WIDTH, HEIGHT = 4.6, 3.1
"""Inches; narrow, so that text stays readable on a phone."""
DPI = 200
BINS = 40
RANK_BINS = (1, 2, 6, 11, 21, 51, 101, 501)
"""First rank of each bin of the rank histogram. Bins beyond the largest rank are left out."""

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "report",
    "font.size": 9,
    "axes.titlesize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """A plot for the page: its file name, title, caption, its numbers as text for screen readers, and its SVG."""

    name: str
    title: str
    caption: str
    figures: str
    svg: str


def draw_plots(
    folder: Path,
    ranks: tuple[Ranks, Ranks],
    entries: tuple[int, int],
    collected: Collected,
    score_names: Sequence[str],
    scale: float,
    hubs: Hubs,
    variance_words: Sequence[str],
) -> list[Plot]:
    """Draw all plots, write each into `folder` as PNG and SVG, and return them for the page.

    `entries`: the number of entries that each direction ranks; `scale`: the logit scale, by which scores are divided; `variance_words`: see
    `evaluate.report.variance`.
    """
    make_folder(folder)
    drawn = [_cmc(folder, ranks, entries), _rank_histogram(folder, ranks), _score_distributions(folder, collected, score_names, scale)]
    if len(score_names) > 1:
        drawn.append(_variance_distributions(folder, collected, scale, variance_words))
    return [*drawn, _hub_histogram(folder, hubs)]


def _cmc(folder: Path, ranks: tuple[Ranks, Ranks], entries: tuple[int, int]) -> Plot:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for of_direction, count, name, colour, style in zip(ranks, entries, DIRECTION_NAMES, (FIRST, SECOND), ("-", "--"), strict=True):
            depths = np.unique(np.geomspace(1, count, 200).astype(np.int64))
            axes.plot(
                depths,
                match_curve(of_direction, count)[depths - 1],
                style,
                color=colour,
                label=name,
                marker="o" if len(depths) == 1 else None,
            )
        axes.set(xscale="log", ylim=(0, 101), xlabel="rank K", ylabel="queries with their answer in the top K (%)")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(loc="lower right")

    at = "; ".join(
        f"{name}: {', '.join(f'{100 * of.recall(k).mean():.1f}% at {k}' for k in (1, 5, 10))}"
        for name, of in zip(DIRECTION_NAMES, ranks, strict=True)
    )
    return render(folder, "cmc", "Cumulative match", "Queries with their answer in the top K.", f"{at}.", draw)


def _rank_histogram(folder: Path, ranks: tuple[Ranks, Ranks]) -> Plot:
    most = max(int(of.worst_Q.max()) for of in ranks)
    firsts = [first for first in RANK_BINS if first <= most] or [1]
    lasts = [*(first - 1 for first in firsts[1:]), most]
    labels = [str(a) if a == b else f"{a}-{b}" for a, b in zip(firsts, lasts, strict=True)]
    shares = [[100 * float((of.recall(b) - of.recall(a - 1)).mean()) for a, b in zip(firsts, lasts, strict=True)] for of in ranks]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        place = np.arange(len(labels))
        axes.bar(place - 0.2, shares[0], 0.38, color=FIRST, edgecolor=FIRST, label=DIRECTION_NAMES[0])
        axes.bar(place + 0.2, shares[1], 0.38, color="none", edgecolor=SECOND, hatch="////", label=DIRECTION_NAMES[1])
        axes.set_xticks(place, labels, rotation=30 if len(labels) > 6 else 0)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="rank of the answer", ylabel="queries (%)")
        axes.legend(loc="upper right")

    listed = "; ".join(
        f"{name}: {', '.join(f'rank {label} {share:.1f}%' for label, share in zip(labels, of, strict=True))}"
        for name, of in zip(DIRECTION_NAMES, shares, strict=True)
    )
    return render(folder, "ranks", "Ranks of the answers", "Queries by the rank of their answer.", f"{listed}.", draw)


def _score_distributions(folder: Path, collected: Collected, names: Sequence[str], scale: float) -> Plot:
    positive_SA, negative_SA = collected.positive_SA / scale, collected.negative_SA / scale

    def draw(figure: Figure) -> None:
        rows = -(-len(names) // 2)
        grid = figure.subplots(rows, min(2, len(names)), squeeze=False)
        for axes, name, own_A, other_A in zip(grid.flat, names, positive_SA, negative_SA, strict=False):
            _two_histograms(axes, own_A, other_A, _linear_bins(own_A, other_A))
            axes.set_title(name)
        for axes in grid.flat[len(names) :]:
            axes.remove()
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
        figure.supxlabel("score before the logit scale", fontsize=9)
        figure.supylabel("pairs (%)", fontsize=9)

    means = "; ".join(
        f"{name}: {own.mean():.3f} and {_mean(other)}" for name, own, other in zip(names, positive_SA, negative_SA, strict=True)
    )
    text = (
        "Distribution of each score over matching pairs and over each caption's hardest negative: the video with the highest score that "
        "is no answer to it. A video answers its own captions, and equal captions of other videos."
    )
    without = int(np.isnan(negative_SA[0]).sum())
    text += f" {without:,} of {negative_SA.shape[1]:,} captions are answered by every video and have no negative." if without else ""
    height = HEIGHT if len(names) < 3 else 1.35 * HEIGHT
    return render(folder, "scores", "Scores of positives and hardest negatives", text, f"Means: {means}.", draw, height)


def _variance_distributions(folder: Path, collected: Collected, scale: float, words: Sequence[str]) -> Plot:
    own_A, other_A = score_variance(collected.positive_SA, scale), score_variance(collected.negative_SA, scale)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        shown = np.concatenate([own_A, other_A])
        shown = shown[np.isfinite(shown) & (shown > 0)]
        if len(shown) and shown.max() > shown.min():
            _two_histograms(axes, own_A, other_A, np.geomspace(shown.min(), shown.max(), BINS + 1))
            axes.set_xscale("log")
        else:
            _two_histograms(axes, own_A, other_A, _linear_bins(own_A, other_A))
        axes.set(xlabel="variance of a pair's scores", ylabel="pairs (%)")
        axes.legend(loc="upper left")

    there_A = np.isfinite(other_A)
    hardest = f"; the mean of the latter is {power(float(other_A[there_A].mean()))}" if there_A.any() else ""
    text = f"Variance of the scores of a pair, over matching pairs and over each caption's hardest negative{hardest}."
    return render(folder, "variance", "Variance over a pair's scores", " ".join([text, *words]), "", draw, 1.35 * HEIGHT)


def _hub_histogram(folder: Path, hubs: Hubs) -> Plot:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        most = int(hubs.count_B.max())
        width = -(-(most + 1) // BINS)
        axes.hist(hubs.count_B, bins=(np.arange(0, most + width + 1, width) - 0.5).tolist(), color=FIRST, edgecolor=FIRST)
        axes.set(xlabel=f"queries with the video in their top {hubs.depth}", ylabel="videos")

    text = (
        f"A video is in the top {hubs.depth} of {hubs.count_B.mean():.1f} queries on average, and of {int(hubs.count_B.max()):,} at most; "
        f"{int((hubs.count_B == 0).sum()):,} of {len(hubs.count_B):,} videos are in none."
    )
    return render(folder, "hubs", "How often videos are found", text, "", draw)


def _two_histograms(axes: Axes, own_A: NDArray[np.floating], other_A: NDArray[np.floating], edges: NDArray[np.float64]) -> None:
    for value_A, label, colour, style in ((own_A, "positives", FIRST, "-"), (other_A, "hardest negatives", SECOND, "--")):
        there_A = np.isfinite(value_A)
        share, _ = np.histogram(value_A[there_A], edges)
        share = 100 * share / max(int(there_A.sum()), 1)
        axes.stairs(share, edges, color=colour, linewidth=1.4, linestyle=style, label=label)
        if label == "positives":
            axes.stairs(share, edges, color=colour, alpha=0.25, linewidth=0, fill=True)
    axes.set_ylim(bottom=0)


def _linear_bins(*values: NDArray[np.floating]) -> NDArray[np.float64]:
    shown = np.concatenate([value[np.isfinite(value)] for value in values]).astype(np.float64)
    low, high = float(shown.min()), float(shown.max())
    room = max(high - low, 1e-6) / BINS
    return np.linspace(low - room / 2, high + room / 2, BINS + 1)


def _mean(value_A: NDArray[np.floating]) -> str:
    there_A = np.isfinite(value_A)
    return f"{value_A[there_A].mean():.3f}" if there_A.any() else "none"


def render(folder: Path, name: str, title: str, caption: str, figures: str, draw: Callable[[Figure], None], height: float = HEIGHT) -> Plot:
    """Draw a figure and save it, for the page with text as text, and for the files with text as outlines. `figures`: see `Plot`."""
    assert name in PLOT_NAMES
    for_page = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height))
        draw(figure)
        mpl.rcParams["svg.fonttype"] = "none"
        figure.savefig(for_page, format="svg", transparent=True, metadata={"Date": None})
        # The layout, which takes most of the time, is computed once.
        figure.set_layout_engine("none")
        mpl.rcParams["svg.fonttype"] = "path"
        for form, own in zip(PLOT_FORMATS, ({"Software": None}, {"Date": None}), strict=True):
            with written_whole(folder / f"{name}.{form}") as temporary:
                figure.savefig(temporary, format=form, dpi=DPI, metadata=own)
    return Plot(name, title, caption, figures, _page_svg(for_page.getvalue(), name))


def _page_svg(svg: str, name: str) -> str:
    """Turn an SVG file into inline SVG: no header or metadata, ids prefixed to be unique, colours and fonts left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]+")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
