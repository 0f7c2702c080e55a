"""Plots of several results: cumulative match curves, and a metric against a training option.

The files are deterministic: they carry no date, and SVG ids come from a fixed salt.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.whole_files import written_whole
from data.cli.meaning import Meaning, options_without
from data.metrics import DIRECTIONS, RECALL_NAMES, RECALL_SUM, TEXT_TO_VIDEO, Ranks
from evaluate.compare.results import SeedGroup, differing_settings
from train_head.options import TrainOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colour-blind safe palette of Okabe and Ito (2008), without its yellow, which is too pale for lines on white."""
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS = ("svg", "png")


def match_curve(ranks: Ranks, entries: int) -> NDArray[np.float64]:
    """The cumulative match characteristic [entries]: entry k - 1 is the percentage of queries with their answer at rank k or better.

    Ties are credited by expectation. With ranks 1, 1 and 3 and three entries, the curve is [66.7, 66.7, 100].
    """
    share_Q = 1 / (ranks.worst_Q - ranks.best_Q + 1)
    change = np.zeros(entries + 2)
    np.add.at(change, ranks.best_Q, share_Q)
    np.add.at(change, ranks.worst_Q + 1, -share_Q)
    at_rank = np.cumsum(change)[1 : entries + 1]
    curve: NDArray[np.float64] = 100 * np.cumsum(at_rank) / len(share_Q)
    return curve


def draw_match_curves(groups: Sequence[SeedGroup], out: Path) -> None:
    """Write the curves of both directions to OUT as cmc.svg and cmc.png, averaged over the seeds of each group."""
    figure, panels = _figure()
    for panel, (place, direction) in zip(panels, enumerate(DIRECTIONS), strict=True):
        looks = zip(cycle(COLOURS), cycle(STYLES), strict=False)
        for group, (colour, style) in zip(groups, looks, strict=False):
            curves = []
            for result in group.results:
                ranks = result.ranks.ranks()
                curves.append(match_curve(ranks[place], result.metrics["gallery"] if place == 0 else len(ranks[1].best_Q)))
            mean = np.mean(curves, axis=0)
            panel.plot(np.arange(1, len(mean) + 1), mean, color=colour, linestyle=style, label=_literal(group.label))
        panel.set(xscale="log", xlabel="k (log scale)", ylabel="queries with their answer in the top k (%)")
        panel.set(title=direction.replace("_", " "), ylim=(0, 101))
        panel.xaxis.set_major_formatter("{x:g}")
    _legend(figure, panels[0])
    _save(figure, out, "cmc")


def training_option(named: str) -> str:
    """The Python name of a training option, given with - or _. Raises UserError unless the option affects the result of training."""
    option = named.replace("-", "_")
    deciding = options_without(TrainOptions, Meaning.FREE, Meaning.REPEAT)
    if option not in deciding:
        raise UserError(f"--sweep {named} is not a training option that affects the result: use one of {', '.join(deciding)}")
    return option


def in_order_of(groups: Sequence[SeedGroup], option: str) -> list[SeedGroup]:
    """The groups sorted by the value of a training option; groups without one, such as untrained heads, come first."""
    swept, values = _swept(groups, option)
    return [group for group in groups if group not in swept] + sorted(
        swept, key=lambda group: _positions([group.first.training[option]], values)[0]
    )


def why_no_sweep(groups: Sequence[SeedGroup], option: str, out: Path | None) -> str | None:
    """The reason why nothing can be plotted against a training option; None if a plot is possible."""
    _, values = _swept(groups, option)
    if not values:
        return f"none of these runs was trained with {option}"
    if len(values) == 1:
        return f"all trained runs have {option} {next(iter(values))}, and a plot needs two values"
    return "no folder is named: add --out" if out is None else None


def _swept(groups: Sequence[SeedGroup], option: str) -> tuple[list[SeedGroup], set[object]]:
    """The groups that were trained with the option, and the values they used."""
    swept = [group for group in groups if option in group.first.training]
    return swept, {group.first.training[option] for group in swept}


def draw_sweep(groups: Sequence[SeedGroup], base: SeedGroup | None, option: str, out: Path) -> None:
    """Plot text-to-video R@1 and RSum against a training option, with standard deviations over seeds, as sweep-OPTION.svg and .png.

    Results that also differ in other settings get separate lines. The base is a horizontal line.
    """
    swept, values = _swept(groups, option)
    figure, panels = _figure()
    first = RECALL_NAMES[0]
    shown = ((f"{TEXT_TO_VIDEO} {first}", f"text-to-video {first} (%)"), (RECALL_SUM, f"{RECALL_SUM} (points)"))
    for panel, (key, name) in zip(panels, shown, strict=True):
        looks = zip(cycle(COLOURS), cycle(MARKERS), cycle(STYLES), strict=False)
        for (label, members), (colour, marker, style) in zip(_series(swept, option).items(), looks, strict=False):
            means, deviations = zip(*(group.figures[key] for group in members), strict=True)
            where = _positions([group.first.training[option] for group in members], values)
            spread = [0.0 if deviation is None else deviation for deviation in deviations]
            panel.errorbar(where, means, spread, color=colour, marker=marker, linestyle=style, capsize=3, label=_literal(label))
        if base is not None:
            panel.axhline(base.figures[key][0], color="#666666", linestyle=(0, (1, 2)), label=_literal(f"base: {base.label}"))
        panel.set(xlabel=option, ylabel=name)
        if not _numeric(values):
            panel.set_xticks(range(len(values)), _ordered(values))
    _legend(figure, panels[0])
    _save(figure, out, f"sweep-{option}")


def _series(groups: Sequence[SeedGroup], option: str) -> Mapping[str, list[SeedGroup]]:
    """Lines of the plot: groups that differ only in the option, sorted by its value, under a label of their other settings."""
    others = [name for name in differing_settings([group.first for group in groups]) if name != option]
    series: dict[str, list[SeedGroup]] = {}
    for group in groups:
        settings = group.first.settings
        series.setdefault(", ".join(f"{name} {settings.get(name)}" for name in others) or settings["head"], []).append(group)
    values = {group.first.training[option] for group in groups}
    return {
        label: sorted(members, key=lambda group: _positions([group.first.training[option]], values)[0]) for label, members in series.items()
    }


def _numeric(values: set[object]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _ordered(values: set[object]) -> list[str]:
    return sorted(map(str, values))


def _positions(some: Sequence[object], values: set[object]) -> list[float]:
    """X positions: numbers stand at their value, other values at their index in sorted order."""
    return [float(str(value)) if _numeric(values) else float(_ordered(values).index(str(value))) for value in some]


def _literal(label: str) -> str:
    """Escape a label for matplotlib, where $ begins a formula and a leading _ hides the entry from the legend."""
    return label.replace("$", r"\$").replace("_", " _", 1) if label.startswith("_") else label.replace("$", r"\$")


def _figure() -> "tuple[Figure, Sequence[Axes]]":
    from matplotlib.figure import Figure  # slow to import, and tables do not need it

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel in panels:
        panel.grid(visible=True, color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _legend(figure: "Figure", panel: "Axes") -> None:
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def _save(figure: "Figure", out: Path, name: str) -> None:
    from matplotlib import rc_context

    for kind in FORMATS:
        # Only SVG files carry a date.
        metadata = {"Date": None} if kind == "svg" else None
        with rc_context({"svg.hashsalt": "evaluate.compare"}), written_whole(out / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
