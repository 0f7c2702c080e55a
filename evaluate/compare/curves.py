"""Plots of several results: how many queries are answered within the first k, and a figure against an option of the training.

The same results give the same bytes: no date, and names within SVG files from a fixed salt.
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
from evaluate.compare.results import Group, differing_settings
from train_head.options import TrainOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart with any colour vision (Okabe and Ito 2008); the yellow of that set is too pale for lines on white."""
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS = ("svg", "png")


def match_curve(ranks: Ranks, entries: int) -> NDArray[np.float64]:
    """The cumulative match characteristic [entries]: of all queries, the percentage answered within the first k, ties by expectation."""
    share_Q = 1 / (ranks.worst_Q - ranks.best_Q + 1)
    change = np.zeros(entries + 2)
    np.add.at(change, ranks.best_Q, share_Q)
    np.add.at(change, ranks.worst_Q + 1, -share_Q)
    at_rank = np.cumsum(change)[1 : entries + 1]
    curve: NDArray[np.float64] = 100 * np.cumsum(at_rank) / len(share_Q)
    return curve


def draw_match_curves(groups: Sequence[Group], out: Path) -> None:
    """Write the curves of both directions to OUT as cmc.svg and cmc.png; those of several seeds are their mean."""
    figure, panels = _figure()
    for panel, (place, direction) in zip(panels, enumerate(DIRECTIONS), strict=True):
        looks = zip(cycle(COLOURS), cycle(STYLES), strict=False)
        for group, (colour, style) in zip(groups, looks, strict=False):
            curves = []
            for result in group.results:
                ranks = result.ranks.ranks()
                curves.append(match_curve(ranks[place], result.metrics["gallery"] if place == 0 else len(ranks[1].best_Q)))
            mean = np.mean(curves, axis=0)
            panel.plot(np.arange(1, len(mean) + 1), mean, color=colour, linestyle=style, label=_shown(group.label))
        panel.set(xscale="log", xlabel="k (entries looked at, logarithmic)", ylabel="queries answered within the first k (%)")
        panel.set(title=direction.replace("_", " "), ylim=(0, 101))
        panel.xaxis.set_major_formatter("{x:g}")
    _legend(figure, panels[0])
    _save(figure, out, "cmc")


def training_option(named: str) -> str:
    """The name in Python of an option of the training that decides its result, with - or _. Raises UserError for another."""
    option = named.replace("-", "_")
    deciding = options_without(TrainOptions, Meaning.FREE, Meaning.REPEAT)
    if option not in deciding:
        raise UserError(f"--sweep {named} is no option of the training that decides its result: use one of {', '.join(deciding)}")
    return option


def in_order_of(groups: Sequence[Group], option: str) -> list[Group]:
    """The groups in the order of the values of a training option; first those that have none, as untrained heads."""
    swept, values = _swept(groups, option)
    return [group for group in groups if group not in swept] + sorted(
        swept, key=lambda group: _positions([group.first.training[option]], values)[0]
    )


def why_no_sweep(groups: Sequence[Group], option: str, out: Path | None) -> str | None:
    """Why nothing can be drawn against a training option, in words; None where it can."""
    _, values = _swept(groups, option)
    if not values:
        return f"no run of these results was trained with {option}"
    if len(values) == 1:
        return f"all that were trained have {option} {next(iter(values))}, and a plot takes two values"
    return "it needs a folder: name one with --out" if out is None else None


def _swept(groups: Sequence[Group], option: str) -> tuple[list[Group], set[object]]:
    """The groups that were trained with the option, and its values."""
    swept = [group for group in groups if option in group.first.training]
    return swept, {group.first.training[option] for group in swept}


def draw_sweep(groups: Sequence[Group], base: Group | None, option: str, out: Path) -> None:
    """Write text-to-video R@1 and RSum against a training option of several values, as sweep-OPTION.svg and .png.

    With standard deviations over seeds. Results that differ in other settings too are lines of their own; the base is a level line.
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
            panel.errorbar(where, means, spread, color=colour, marker=marker, linestyle=style, capsize=3, label=_shown(label))
        if base is not None:
            panel.axhline(base.figures[key][0], color="#666666", linestyle=(0, (1, 2)), label=_shown(f"base: {base.label}"))
        panel.set(xlabel=option, ylabel=name)
        if not _numeric(values):
            panel.set_xticks(range(len(values)), _ordered(values))
    _legend(figure, panels[0])
    _save(figure, out, f"sweep-{option}")


def _series(groups: Sequence[Group], option: str) -> Mapping[str, list[Group]]:
    """Groups that differ in the option alone, by what tells them from others, each in the order of its values."""
    told_by = [name for name in differing_settings([group.first for group in groups]) if name != option]
    series: dict[str, list[Group]] = {}
    for group in groups:
        settings = group.first.settings
        series.setdefault(", ".join(f"{name} {settings.get(name)}" for name in told_by) or settings["head"], []).append(group)
    values = {group.first.training[option] for group in groups}
    return {
        label: sorted(members, key=lambda group: _positions([group.first.training[option]], values)[0]) for label, members in series.items()
    }


def _numeric(values: set[object]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _ordered(values: set[object]) -> list[str]:
    return sorted(map(str, values))


def _positions(some: Sequence[object], values: set[object]) -> list[float]:
    """Where values stand: numbers at themselves, others in a row."""
    return [float(str(value)) if _numeric(values) else float(_ordered(values).index(str(value))) for value in some]


def _shown(label: str) -> str:
    """A label as it is: to matplotlib a $ begins a formula, and _ at the start hides what it names."""
    return label.replace("$", r"\$").replace("_", " _", 1) if label.startswith("_") else label.replace("$", r"\$")


def _figure() -> "tuple[Figure, Sequence[Axes]]":
    from matplotlib.figure import Figure  # takes a while to import, and tables need none

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
        # The date is of SVG files alone; PNG files have none.
        metadata = {"Date": None} if kind == "svg" else None
        with rc_context({"svg.hashsalt": "evaluate.compare"}), written_whole(out / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
