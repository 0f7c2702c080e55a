"""Compares results: one table in four formats, with significance tests and plots."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.base.errors import UserError, check_seed
from data.base.quoting import path_text
from data.base.whole_files import write_atomically, write_json
from data.base.writable import require_writable_folder
from data.cli.options_file import OPTIONS_FILE, write_options
from data.metrics import RECALL_NAMES, RECALL_SUM, TEXT_TO_VIDEO
from evaluate.compare.curves import FORMATS, draw_match_curves, draw_sweep, in_order_of, training_option, why_no_sweep
from evaluate.compare.options import CompareOptions
from evaluate.compare.results import COMPARISON_FILE, MUST_MATCH, Result, SeedGroup, folders_of_results, group_by_seed, mismatches
from evaluate.compare.significance import TESTED, Comparison, compare_with_base
from evaluate.compare.table import FIGURE_COLUMNS, NONE, Table, heading, latex_text, result_notes
from evaluate.folder import check_out, replacing

FILES = {"text": "table.txt", "markdown": "table.md", "latex": "table.tex", "csv": "table.csv"}
COMPARISON_PATTERNS = (
    COMPARISON_FILE,
    OPTIONS_FILE,
    *FILES.values(),
    *(f"{name}.{kind}" for name in ("cmc", "sweep-*") for kind in FORMATS),
)
"""Glob patterns of the files that a comparison writes."""


@dataclass(frozen=True)
class Compared:
    """The contents of a table."""

    groups: Sequence[SeedGroup]
    base: SeedGroup | None
    tests: dict[str, Comparison]
    """By group label: every group but the base that has the same queries as the base. Empty without a base."""
    mismatches: Sequence[str]
    """What differs between results that should match; see --allow-different."""


def print_comparison(options: CompareOptions) -> dict[str, Any]:
    """Print the table, write it and its plots to --out if given, and return the contents of comparison.json.

    Raises UserError if a folder holds no results, or if results are not on the same queries and --allow-different is not given.
    """
    check_seed(options.seed)
    sweep = None if options.sweep is None else training_option(options.sweep)
    if options.out is not None:
        require_writable_folder(options.out)
        check_out(options.out, COMPARISON_PATTERNS)
    compared = compare(options, sweep)
    missing = None if sweep is None else why_no_sweep(compared.groups, sweep, options.out)
    tables = {"text": as_text, "markdown": as_markdown, "latex": as_latex, "csv": as_csv}
    record = as_record(compared)
    if options.out is not None:
        with replacing(options.out, COMPARISON_PATTERNS) as new:
            write_options(new / OPTIONS_FILE, options, "python -m evaluate.compare")
            for name, file in FILES.items():
                write_atomically(new / file, tables[name](compared) + "\n")
            draw_match_curves(compared.groups, new)
            if sweep is not None and missing is None:
                draw_sweep(compared.groups, compared.base, sweep, new)
            write_json(new / COMPARISON_FILE, record)
    print(json.dumps(record) if options.json else tables[options.format](compared))
    if missing is not None:
        print(f"--sweep {options.sweep}: no plot, because {missing}", file=sys.stderr)
    return record


def compare(options: CompareOptions, sweep: str | None = None) -> Compared:
    """Read the results, group them by seed, sort them by the training option `sweep` if given, and test them against the base."""
    folders, without = folders_of_results(options.results)
    if without:
        print(f"left out runs without results: {len(without)}, such as {without[0]}; evaluate them first", file=sys.stderr)
    base_folder = None
    if options.base is not None:
        bases, _ = folders_of_results([options.base])
        if len(bases) > 1:
            raise UserError(f"--base {options.base} holds several results: name one of them, such as {bases[0]}")
        by_place = {folder.resolve(): folder for folder in folders}
        base_folder = by_place.get(bases[0].resolve(), bases[0])
        if base_folder not in folders:
            folders.insert(0, base_folder)
    results = [Result.read(folder) for folder in folders]
    different = mismatches(results)
    if different and not options.allow_different:
        raise UserError(f"these results are not on the same queries ({'; '.join(different)}): choose others, or add --allow-different")
    groups = group_by_seed(results)
    if sweep is not None:
        groups = in_order_of(groups, sweep)
    base = next((group for group in groups for result in group.results if result.folder == base_folder), None)
    tests: dict[str, Comparison] = {}
    if base is not None:
        queries = base.first.ranks
        others = [g for g in groups if g is not base and all(result.ranks.same_queries(queries) for result in (*g.results, *base.results))]
        tests = dict(zip((group.label for group in others), compare_with_base(others, base, options.seed), strict=True))
    return Compared(groups, base, tests, different)


def figures_table(compared: Compared) -> Table:
    """One row per group: mean ± standard deviation over seeds, or the metrics of a single result."""
    rows = []
    for group in compared.groups:
        shared = group.first.metrics
        cells = [_cell(*group.figures[f"{direction.replace(' ', '_')} {name}".strip()]) for direction, name in FIGURE_COLUMNS]
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
        for figure in test.figures.values():
            cells += [f"{figure.difference:+.1f}", f"{figure.low:+.1f} to {figure.high:+.1f}", _p(figure.p)]
        counted = test.mcnemar
        cells += [NONE] * 3 if counted is None else [str(counted.gained), str(counted.lost), _p(counted.p)]
        rows.append([group.label, *cells])
    return Table(columns, rows)


def notes(compared: Compared) -> list[str]:
    """Notes below the table, one per line."""
    lines = [f"NOT THE SAME {line}" for line in compared.mismatches]
    for group in compared.groups:
        lines += result_notes(group.first.metrics, group.label)
    if compared.base is not None:
        lines.append(
            f"differences from {compared.base.label}, in points: paired bootstrap over queries, 95% interval; McNemar: captions at rank 1 "
            "here but not there (gained) and the reverse (lost), exact test; p is not corrected for multiple tests"
        )
    return lines


def as_text(compared: Compared) -> str:
    """The table as plain text: how much of the split was scored, metrics, tests, notes."""
    counted = {group.label: heading(group.first.metrics) for group in compared.groups}
    # One line if all groups were scored on the same captions and videos.
    head = [next(iter(counted.values()))] if len(set(counted.values())) == 1 else [f"{label}: {line}" for label, line in counted.items()]
    tests = tests_table(compared)
    return "\n".join([*head, figures_table(compared).text(), *(["", tests.text(), ""] if tests else []), *notes(compared)])


def as_markdown(compared: Compared) -> str:
    """The tables in GitHub Markdown, with the notes as a list."""
    tests = tests_table(compared)
    parts = [figures_table(compared).markdown(), *([tests.markdown()] if tests else []), "\n".join(f"- {line}" for line in notes(compared))]
    return "\n\n".join(part for part in parts if part)


def as_latex(compared: Compared) -> str:
    """The tables as tabular environments, which need the package booktabs, with the notes as lines below them."""
    tests = tests_table(compared)
    footnotes = [f"\\par\\footnotesize {latex_text(line)}" for line in notes(compared)]
    return "\n".join([figures_table(compared).latex(), *([tests.latex()] if tests else []), *footnotes])


def as_csv(compared: Compared) -> str:
    """One row per group, for programs: all numbers in full precision, empty where a number does not exist."""
    rows = []
    for row in as_record(compared)["rows"]:
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
        rows.append({**flat, "not the same": "; ".join(compared.mismatches)})
    return pd.DataFrame(rows).to_csv(index=False).rstrip("\n")


def as_record(compared: Compared) -> dict[str, Any]:
    """The comparison as plain values for JSON."""
    rows = []
    for group in compared.groups:
        test = compared.tests.get(group.label)
        rows.append(
            {
                "run": group.label,
                "folders": [str(result.folder) for result in group.results],
                "seeds": len(group.results),
                **{name: group.first.metrics[name] for name in (*MUST_MATCH, "train_videos", "selected_on")},
                "figures": {name: {"mean": mean, "std": deviation} for name, (mean, deviation) in group.figures.items()},
                "tests": None if test is None else test.as_dict(),
            }
        )
    base = None if compared.base is None else compared.base.label
    return {"base": base, "different": list(compared.mismatches), "rows": rows, "notes": notes(compared)}


def _tested(name: str) -> str:
    return name if name == RECALL_SUM else f"{TEXT_TO_VIDEO.replace('_', ' ')} {name}"


def _cell(mean: float, deviation: float | None) -> str:
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
