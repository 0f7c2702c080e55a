"""Formats tables of results as plain text, Markdown and LaTeX."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from data.metrics import DIRECTIONS, FIGURES, RECALL_SUM
from evaluate.guidance.choose import choice_lines
from evaluate.guidance.sharpness import guidance_lines, misfit
from evaluate.two_stage.notes import difference, two_stage_notes
from search.retrieval.cut import cut_notes
from train_head.scoring.splits import counts_line

FIGURE_COLUMNS = [(direction.replace("_", " "), name) for direction in DIRECTIONS for name in FIGURES] + [("", RECALL_SUM)]
"""The columns of metrics: their header group and name."""
NONE = "-"
_PLUS_MINUS = r"$\pm$"
_LATEX = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": _PLUS_MINUS,
}
"""Replacements for characters that are commands in LaTeX, or that its default font encoding shows as other ones."""


@dataclass(frozen=True)
class Table:
    """Text cells under columns, given as (header group, name); the group may be "". The first column is left-aligned, others right."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """The table as plain text, aligned with spaces."""
        width = [max([len(name), *(len(row[i]) for row in self.rows)]) for i, (_, name) in enumerate(self.columns)]
        spans = [(name, [i for i, _ in members]) for name, members in groupby(enumerate(self.columns), key=lambda column: column[1][0])]
        for name, places in spans:
            # A group name wider than its columns widens the first of them.
            width[places[0]] += max(0, len(name) - _span(width, places))
        cells = [[name for _, name in self.columns], *self.rows]
        lines = [
            "  ".join(cell.ljust(size) if i == 0 else cell.rjust(size) for i, (cell, size) in enumerate(zip(row, width, strict=True)))
            for row in cells
        ]
        if any(name for name, _ in spans):
            lines.insert(0, "  ".join(name.center(_span(width, places)) for name, places in spans))
        return "\n".join(line.rstrip() for line in lines)

    def markdown(self) -> str:
        """The table in GitHub Markdown; the header group precedes the name of a column."""
        head = [f"{group} {name}".strip() for group, name in self.columns]
        rule = [":--", *["--:"] * (len(head) - 1)]
        # A | would end the cell, and a < would begin a tag.
        rows = [[cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])

    def latex(self) -> str:
        """The table as a tabular environment, which needs the package booktabs."""
        groups = []
        for name, members in groupby(self.columns, key=lambda column: column[0]):
            count = len(list(members))
            groups.append(rf"\multicolumn{{{count}}}{{c}}{{{latex_text(name)}}}" if name else " & ".join([""] * count))
        lines = [
            r"\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}",
            r"\toprule",
            *([" & ".join(groups) + r" \\"] if any(group for group, _ in self.columns) else []),
            " & ".join(latex_text(name) for _, name in self.columns) + r" \\",
            r"\midrule",
            *(" & ".join(map(latex_text, row)) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines)


def _span(width: Sequence[int], places: Sequence[int]) -> int:
    """Total width of these columns, including the spaces between them."""
    return sum(width[i] for i in places) + 2 * (len(places) - 1)


def latex_text(text: str) -> str:
    """Escape a line of text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def figures(metrics: Mapping[str, Any]) -> list[str]:
    """The cells of FIGURE_COLUMNS; NONE for missing metrics."""
    cells = []
    for group, name in FIGURE_COLUMNS:
        found = metrics.get(group.replace(" ", "_"), {}) if group else metrics
        cells.append(f"{found[name]:.1f}" if name in found else NONE)
    return cells


def format_evaluation(result: Mapping[str, Any]) -> str:
    """Format metrics.json of one evaluation as text.

    Shows how much of the split was scored, the metrics with their intervals, by single scores and after post-processing, notes, and
    the cost of scoring.
    """
    columns = [("", "run"), ("", "split"), ("", "queries"), ("", "gallery"), *FIGURE_COLUMNS]
    rows = [
        [result["run"], result["split"] or NONE, str(result["queries"]), str(result["gallery"]), *figures(result)],
        ["  95% interval, half-width", "", "", "", *_half_widths(result["intervals"])],
        *(["  " + row["name"], "", "", "", *figures(row)] for row in [*result["scores"], *result["post_processing"]]),
    ]
    if "two_stage" in result:
        first = result["two_stage"]
        rows.append([f"  first stage, {first['run']}", "", "", "", *figures(first)])
        rows.append(["  difference", "", "", "", *(_signed(cell) for cell in figures(difference(result)))])
    notes = [f"{row['name']}: reads {row['reads']}" for row in result["post_processing"]]
    lines = [heading(result), Table(columns, rows).text()]
    if result.get("tau_choice"):
        notes += choice_lines(result["tau_choice"])
    if "guidance" in result:
        notes += guidance_notes(result)
    if "two_stage" in result:
        notes += two_stage_notes(result)
    # A fusion scores nothing, and two stages have two costs.
    cost = [_cost_line(result["cost"])] if "cost" in result else []
    return "\n".join([*lines, *notes, *result_notes(result, result["run"]), *cost])


def guidance_notes(result: Mapping[str, Any]) -> Iterator[str]:
    """How sharply texts weigh frames, and what to try if tau evidently does not suit the features. None for a head without guidance."""
    guidance = result["guidance"]
    yield from guidance_lines(guidance)
    why = misfit(guidance, result["temperatures"].get("tau", 0.0))
    if why and not result["tau_choice"]:
        remedy = "train with another --tau" if result["trained"] else "choose one with --zero-shot-tau-from val"
        yield f"guidance: {why}; {remedy}"


def heading(result: Mapping[str, Any]) -> str:
    """The split and its counts in one line for people."""
    if result["counts"] is None:  # a fusion of matrices without NAME.json
        return f"{result['queries']:,} texts and {result['gallery']:,} videos, whose data set and split are not recorded"
    return counts_line(result["preset"], result["split"], result["counts"])


def result_notes(result: Mapping[str, Any], label: str) -> Iterator[str]:
    """Notes that a reader of the metrics needs."""
    if len(result.get("sources", ())) > 1:
        yield f"{label}: sources {', '.join(result['sources'])} together; --name selects one"
    for note in cut_notes(result):
        yield f"{label}: {note}"
    yield from _selection_note(result, label)
    if "two_stage" in result:
        yield from _selection_note(result["two_stage"], result["two_stage"]["run"])
    if result.get("trained_on"):
        count = f"{result['trained_on']:,} of the {result['gallery']:,} videos of {result['split']}"
        whose = f"it or {result['two_stage']['run']} was" if "two_stage" in result else "it was"
        yield f"{label}: {count} have the ids of videos that {whose} trained on: if they are the same, this is not a result on unseen data"
    temperatures, choice = result.get("temperatures", {}), result.get("tau_choice")
    if choice:
        yield f"{label}: tau {choice['tau']:.4g} chosen on {choice['chosen_on']} by {choice['chosen_by']}, without training"
    for name, usual in temperatures.get("instead_of", {}).items():
        yield f"{label}: {name} {temperatures[name]:g} instead of the {usual:g} of {'the run' if result['trained'] else 'the paper'}"
    if result["ties"] == "reference":
        entries = " and ".join(f"{result[direction]['entries']:,}" for direction in DIRECTIONS)
        yield f"{label}: ties counted as in the field's code, {entries} entries; intervals and tests credit them by expectation"


def _selection_note(run: Mapping[str, Any], label: str) -> Iterator[str]:
    if run["selected_on"] is not None:
        chosen = f"epoch chosen on {run['selected_on']}"
        if run["selected_on"] == "test":
            chosen += ", as is common in the field: not a result on unseen data"
        yield f"{label}: trained on {run['train_videos']:,} videos; {chosen}"


def _half_widths(intervals: Mapping[str, Any]) -> list[str]:
    cells = []
    for group, name in FIGURE_COLUMNS:
        low, high = (intervals[group.replace(" ", "_")] if group else intervals)[name]
        cells.append(f"±{(high - low) / 2:.1f}")
    return cells


def _signed(cell: str) -> str:
    return cell if cell.startswith("-") else f"+{cell}"


def _cost_line(cost: Mapping[str, Any]) -> str:
    measured = cost["measured"]
    peak = "" if measured["peak_extra_mib"] is None else f", {measured['peak_extra_mib']:,.0f} MiB of memory on top of the features"
    return (
        f"scoring: {measured['ms_a_query']:.2f} ms per query ({measured['queries_a_second']:,.0f} queries per second) on {cost['device']} "
        f"with {cost['threads']} threads{peak}; {cost['flops_a_pair'] / 1e6:.3g} MFLOP per pair"
    )
