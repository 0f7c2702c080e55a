"""The pictures of docs/design/ablations.md: SVG that is readable on light and on dark pages, and the same bytes from the same runs."""

import io
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from data.base.whole_files import write_atomically
from experiments.ablations.claims import RSUM
from experiments.ablations.reading import World
from experiments.ablations.verdicts import Compared, Verdict, WorldVerdicts
from experiments.groups import GROUPS

INK, FAINT, HELD, REFUTED = "#1f2328", "#b5bcc4", "#1f5fa8", "#b3541e"
DARK = {INK: "#e6edf3", FAINT: "#4a525c", HELD: "#6cb0ff", REFUTED: "#ff9a5c"}
"""The colours of a dark page."""
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ablations",
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor"), INK),
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
}
MARKS = {Verdict.HELD: ("o", HELD), Verdict.REFUTED: ("X", REFUTED), Verdict.UNDECIDED: ("|", INK)}
_STYLED = re.compile(r'style="[^"]*"')
_COLOUR = re.compile(r"(fill|stroke): (#[0-9a-f]{6})")
LINEAR = 10.0
"""Points of RSum up to which the axis of differences is linear; beyond, it is logarithmic."""


def draw_all(verdicts: Sequence[WorldVerdicts], split: str, page: Path) -> dict[str, str]:
    """Draw what there are runs for beside the page. Returns the Markdown of each picture, by group or "claims"."""
    worlds = [one.world for one in verdicts]
    drawn = {
        "claims": _differences(verdicts, page),
        "csc-weight": _curve(worlds, "csc-weight", "weight of the CSC loss", split, page),
        "tau": _curve(worlds, "tau", "temperature of the guidance, tau", split, page),
    }
    return {name: markdown for name, markdown in drawn.items() if markdown}


def _curve(worlds: Sequence[World], name: str, label: str, split: str, page: Path) -> str:
    """RSum against the values of a group, a panel for each world; empty where no world has two values."""
    group = next(group for group in GROUPS if group.name == name)
    shown = [(world, runs) for world in worlds if len(runs := world.of_group(group)) > 1]
    if not shown:
        return ""
    logarithmic = all(float(value) > 0 for value in group.settings)
    column = RSUM.column.format(split=split)
    said = []

    def draw(canvas: Canvas) -> None:
        for axes, (world, runs) in zip(canvas.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            values = [float(value) for value in runs]
            sums = [own[column].tolist() for own in runs.values()]
            means = [statistics.mean(of_value) for of_value in sums]
            deviations = [statistics.stdev(of_value) if len(of_value) > 1 else 0.0 for of_value in sums]
            for value, of_value in zip(values, sums, strict=True):
                axes.plot([value] * len(of_value), of_value, "o", color=FAINT, markersize=4)
            axes.errorbar(values, means, deviations, fmt="-s", color=HELD, capsize=3, markersize=4)
            if logarithmic:
                axes.set_xscale("log")
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.minorticks_off()
            axes.set(title=world.name, xlabel=f"{label}\n(dots: runs; bars: standard deviation over seeds)", ylabel=f"RSum, {split}")
            best = values[means.index(max(means))]
            said.append(f"at {best:g} on {world.name}")

    width = 4.6 * len(shown)
    path = _save(page, name, draw, (width, 3.3))
    largest = f"The mean over seeds is largest {' and '.join(said)}."
    return f"![RSum by the {label}. {largest}]({path})\n\n{largest}"


def _differences(verdicts: Sequence[WorldVerdicts], page: Path) -> str:
    """All comparisons by RSum with their intervals, a panel for each world; empty where there are none."""
    shown = [(one, compared) for one in verdicts if (compared := _drawable(one))]
    if not shown:
        return ""
    labels = list(dict.fromkeys(_label(compared) for _, found in shown for compared in found))

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for axes, (one, found) in zip(panels, shown, strict=True):
            _forest(axes, found, labels)
            axes.set_title(one.world.name)

    path = _save(page, "claims", draw, (3.4 + 3.6 * len(shown), 1.1 + 0.2 * len(labels)))
    counts = [
        f"on {one.world.name} {', '.join(f'{sum(c.verdict == verdict for c in found)} {verdict}' for verdict in MARKS)}"
        for one, found in shown
    ]
    alt = f"Every comparison by RSum with its interval: {'; '.join(counts)}"
    return (
        f"![{alt}]({path})\n\nDifferences of RSum with the intervals of the table, positive where the claim is right. Filled circles are "
        f"held, crosses refuted, bars undecided. The axis is linear up to {LINEAR:g} points, and logarithmic beyond."
    )


def _drawable(one: WorldVerdicts) -> list[Compared]:
    """The comparisons by RSum that have an interval, each once."""
    found = {compared.comparison: compared for judged in one.judged for compared in judged.compared}
    return [c for c in found.values() if c.comparison.figure == RSUM and c.difference is not None and c.difference.pairs > 1]


def _label(compared: Compared) -> str:
    comparison = compared.comparison
    title = next(group.title for group in GROUPS if group.name == comparison.group)
    return f"{title}: {comparison.better} - {comparison.than}"


def _forest(axes: Axes, found: Sequence[Compared], labels: Sequence[str]) -> None:
    for compared in found:
        assert compared.difference is not None
        marker, colour = MARKS[compared.verdict]
        place = len(labels) - 1 - labels.index(_label(compared))
        axes.plot([compared.difference.low, compared.difference.high], [place, place], "-", color=colour, linewidth=1.4)
        axes.plot(compared.difference.mean, place, marker, color=colour, markersize=5, markeredgewidth=1.4)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.5)
    axes.margins(x=0.05)
    low, high = axes.get_xlim()
    ticks = [value for value in (-1000, -100, -10, -5, 0, 5, 10, 100, 1000) if low <= value <= high]
    axes.set_xticks(ticks, [f"{value:+d}" if value else "0" for value in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(labels)), list(reversed(labels)))
    axes.set_ylim(-0.7, len(labels) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("difference of RSum")


def _save(page: Path, name: str, draw: Callable[[Canvas], None], size: tuple[float, float]) -> str:
    """Draw into a file beside the page, and return its name."""
    content = io.StringIO()
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=size, layout="constrained")
        draw(canvas)
        canvas.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    path = page.with_name(f"{page.stem}-{name}.svg")
    write_atomically(path, _for_both_themes(content.getvalue()))
    return path.name


def _for_both_themes(svg: str) -> str:
    """The SVG with a class for every colour of a shape, and a style sheet that replaces these colours on dark pages."""
    names = {light: f"c{number}" for number, light in enumerate(DARK)}

    def classed(match: re.Match[str]) -> str:
        found = [f"{what}-{names[colour]}" for what, colour in _COLOUR.findall(match[0]) if colour in names]
        return f'class="{" ".join(found)}" {match[0]}' if found else match[0]

    rules = "".join(f".{what}-{names[light]}{{{what}:{dark}!important}}" for light, dark in DARK.items() for what in ("fill", "stroke"))
    style = f"<style>text{{font-family:sans-serif}}@media (prefers-color-scheme: dark){{{rules}}}</style>\n"
    start = svg.index("<defs>")
    return svg[:start] + style + _STYLED.sub(classed, svg[start:])
