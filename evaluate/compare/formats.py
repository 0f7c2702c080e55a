"""Formats a comparison as text, Markdown, LaTeX, CSV and plain values for JSON."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.base.quoting import path_text
from data.metrics import RECALL_NAMES, RECALL_SUM, TEXT_TO_VIDEO
from evaluate.compare.by import Division, Part
from evaluate.compare.compared import Compared
from evaluate.compare.results import MUST_MATCH
from evaluate.compare.significance import TESTED
from evaluate.compare.table import FIGURE_COLUMNS, NONE, Table, heading, latex_text, result_notes

MARKUP = re.compile(r"[\\`*_\[\]<>|#&$~]")
"""Characters that mean something in the Markdown of GitHub."""


@dataclass(frozen=True)
class Contents:
    """Everything that a comparison shows."""

    whole: Compared
    mismatches: Sequence[str]
    """What differs between results that should match; see --allow-different."""
    division: Division | None = None
    """With --by, how the queries are divided."""
    parts: Sequence[Part] = ()
    """The comparison on each group of queries."""

    def tables(self) -> Iterator[tuple[str | None, Table, Table | None]]:
        """The titles (None without --by), figures and tests: of all queries, then of each group of them."""
        if self.division is None:
            yield None, figures_table(self.whole), tests_table(self.whole)
            return
        yield "all queries", figures_table(self.whole), tests_table(self.whole)
        for part in self.parts:
            yield part.title(self.division.groups.by), figures_table(part.compared), tests_table(part.compared)


def figures_table(compared: Compared) -> Table:
    """One row per group: mean ± standard deviation over seeds, or the metrics of a single result."""
    rows = []
    for group in compared.groups:
        shared = group.first.metrics
        found = group.figures
        names = [f"{direction.replace(' ', '_')} {name}".strip() for direction, name in FIGURE_COLUMNS]
        cells = [_cell(*found[name]) if name in found else NONE for name in names]
        rows.append([group.label, str(len(group.results)), shared["split"] or NONE, str(shared["queries"]), str(shared["gallery"]), *cells])
    columns = [("", name) for name in ("run", "seeds", "split", "queries", "gallery")]
    return Table([*columns, *FIGURE_COLUMNS], rows)


def tests_table(compared: Compared) -> Table | None:
    """One row per group except the base: differences, their intervals and p. None without a base or without other groups."""
    others = [group for group in compared.groups if group is not compared.base]
    if compared.base is None or not others:
        return None
    columns = [("", "run"), *((_tested(name), column) for name in TESTED for column in ("difference", "95% interval", "p"))]
    columns += [(f"McNemar, {RECALL_NAMES[0]}", column) for column in ("gained", "lost", "p")]
    rows = []
    for group in others:
        test = compared.tests.get(group.label)
        if test is None:
            rows.append([group.label, *[NONE] * (len(columns) - 1)])
            continue
        cells = []
        for figure in map(test.figures.get, TESTED):
            cells += (
                [NONE] * 3 if figure is None else [f"{figure.difference:+.1f}", f"{figure.low:+.1f} to {figure.high:+.1f}", _p(figure.p)]
            )
        counted = test.mcnemar
        cells += [NONE] * 3 if counted is None else [str(counted.gained), str(counted.lost), _p(counted.p)]
        rows.append([group.label, *cells])
    return Table(columns, rows)


def notes(contents: Contents) -> list[str]:
    """Notes below the tables, one per line."""
    lines = [f"NOT THE SAME {line}" for line in contents.mismatches]
    for group in contents.whole.groups:
        lines += result_notes(group.first.metrics, group.label)
    if contents.whole.base is not None:
        lines.append(
            f"differences from {contents.whole.base.label}, in points: paired bootstrap over queries, 95% interval; McNemar: captions at "
            "rank 1 here but not there (gained) and the reverse (lost), exact test; p is not corrected for multiple tests"
        )
    if contents.division is None:
        return lines
    if any(RECALL_SUM not in part.compared.groups[0].first.metrics for part in contents.parts):
        lines.append(f"{RECALL_SUM} only where the captions of a group describe exactly its videos")
    return [*lines, *contents.division.notes]


def as_text(contents: Contents) -> str:
    """The tables as plain text: how much of the split was scored, metrics, tests, notes."""
    counted = {group.label: heading(group.first.metrics) for group in contents.whole.groups}
    # One line if all groups were scored on the same captions and videos.
    lines = [next(iter(counted.values()))] if len(set(counted.values())) == 1 else [f"{label}: {line}" for label, line in counted.items()]
    for title, figures, tests in contents.tables():
        lines += [] if title is None else ["", title] if lines[-1] else [title]
        lines += [figures.text(), *(["", tests.text(), ""] if tests else [])]
    return "\n".join([*lines, *([""] if contents.parts and lines[-1] else []), *notes(contents)])


def as_markdown(contents: Contents) -> str:
    """The tables in GitHub Markdown, with the notes as a list."""
    parts = []
    for title, figures, tests in contents.tables():
        parts += [] if title is None else ["### " + MARKUP.sub(r"\\\g<0>", title)]
        parts += [figures.markdown(), *([tests.markdown()] if tests else [])]
    parts.append("\n".join(f"- {line}" for line in notes(contents)))
    return "\n\n".join(part for part in parts if part)


def as_latex(contents: Contents) -> str:
    """The tables as tabular environments, which need the package booktabs, with the notes as lines below them."""
    lines = []
    for title, figures, tests in contents.tables():
        lines += [] if title is None else [f"\\par\\bigskip\\noindent {latex_text(title)}\\par"]
        lines += [figures.latex(), *([tests.latex()] if tests else [])]
    return "\n".join([*lines, *(f"\\par\\footnotesize {latex_text(line)}" for line in notes(contents))])


def as_csv(contents: Contents) -> str:
    """One row per group of results, and with --by for each of the groups of queries too, for programs: all numbers in full precision,
    empty where a number does not exist."""
    rows = list(_csv_rows(contents.whole))
    if contents.division is not None:
        by = contents.division.groups.by
        rows = [{"by": "", "group": "", **row} for row in rows]
        rows += [{"by": by, "group": part.name, **row} for part in contents.parts for row in _csv_rows(part.compared)]
    return pd.DataFrame([{**row, "not the same": "; ".join(contents.mismatches)} for row in rows]).to_csv(index=False).rstrip("\n")


def _csv_rows(compared: Compared) -> Iterator[dict[str, Any]]:
    for row in _rows(compared):
        flat = {name: row[name] for name in ("run", "seeds", *MUST_MATCH) if name != "counts"}
        flat["folders"] = path_text(" ".join(row["folders"]))
        for name, figure in row["figures"].items():
            flat |= {f"{name} mean": figure["mean"], f"{name} std": figure["std"]}
        tests = row["tests"] or {"figures": {}, "mcnemar": None}
        for name in TESTED if compared.base is not None else ():
            found = tests["figures"].get(name, {})
            flat |= {f"{_tested(name)} {key}": found.get(key) for key in ("difference", "low", "high", "p")}
        if compared.base is not None:
            flat |= {f"McNemar {key}": (tests["mcnemar"] or {}).get(key) for key in ("gained", "lost", "p")}
        yield flat


def as_record(contents: Contents) -> dict[str, Any]:
    """The comparison as plain values for JSON."""
    base = None if contents.whole.base is None else contents.whole.base.label
    parts: dict[str, Any] = {}
    if contents.division is not None:
        groups = [{"name": part.name, "queries": part.queries, "rows": list(_rows(part.compared))} for part in contents.parts]
        parts = {"by": contents.division.groups.by, "groups": groups}
    return {"base": base, "different": list(contents.mismatches), "rows": list(_rows(contents.whole)), **parts, "notes": notes(contents)}


def _rows(compared: Compared) -> Iterator[dict[str, Any]]:
    for group in compared.groups:
        test = compared.tests.get(group.label)
        yield {
            "run": group.label,
            "folders": [str(result.folder) for result in group.results],
            "seeds": len(group.results),
            **{name: group.first.metrics[name] for name in (*MUST_MATCH, "train_videos", "selected_on")},
            "figures": {name: {"mean": mean, "std": deviation} for name, (mean, deviation) in group.figures.items()},
            "tests": None if test is None else test.as_dict(),
        }


def _tested(name: str) -> str:
    return name if name == RECALL_SUM else f"{TEXT_TO_VIDEO.replace('_', ' ')} {name}"


def _cell(mean: float, deviation: float | None) -> str:
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
