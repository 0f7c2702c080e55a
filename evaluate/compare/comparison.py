"""Compares results: one table in four formats, with significance tests and plots; with --by, one for each group of queries too."""

import json
import sys
from typing import Any

from data.base.errors import UserError, check_seed
from data.base.whole_files import write_atomically, write_json
from data.base.writable import require_writable_folder
from data.cli.options_file import OPTIONS_FILE, write_options
from evaluate.compare.by import compare_parts, divide
from evaluate.compare.compared import Compared
from evaluate.compare.curves import FORMATS, draw_match_curves, draw_sweep, in_order_of, training_option, why_no_sweep
from evaluate.compare.formats import Contents, as_csv, as_latex, as_markdown, as_record, as_text
from evaluate.compare.options import CompareOptions
from evaluate.compare.results import COMPARISON_FILE, Result, folders_of_results, group_by_seed, mismatches
from evaluate.folder import check_out, replacing

FILES = {"text": "table.txt", "markdown": "table.md", "latex": "table.tex", "csv": "table.csv"}
COMPARISON_PATTERNS = (
    COMPARISON_FILE,
    OPTIONS_FILE,
    *FILES.values(),
    *(f"{name}.{kind}" for name in ("cmc", "sweep-*") for kind in FORMATS),
)
"""Glob patterns of the files that a comparison writes."""


def print_comparison(options: CompareOptions) -> dict[str, Any]:
    """Print the table, write it and its plots to --out if given, and return the contents of comparison.json.

    Raises UserError if a folder holds no results, or if results are not on the same queries and --allow-different is not given.
    """
    check_seed(options.seed)
    sweep = None if options.sweep is None else training_option(options.sweep)
    if options.out is not None:
        require_writable_folder(options.out)
        check_out(options.out, COMPARISON_PATTERNS)
    contents = compare(options, sweep)
    compared = contents.whole
    missing = None if sweep is None else why_no_sweep(compared.groups, sweep, options.out)
    tables = {"text": as_text, "markdown": as_markdown, "latex": as_latex, "csv": as_csv}
    record = as_record(contents)
    if options.out is not None:
        with replacing(options.out, COMPARISON_PATTERNS) as new:
            write_options(new / OPTIONS_FILE, options, "python -m evaluate.compare")
            for name, file in FILES.items():
                write_atomically(new / file, tables[name](contents) + "\n")
            draw_match_curves(compared.groups, new)
            if sweep is not None and missing is None:
                draw_sweep(compared.groups, compared.base, sweep, new)
            write_json(new / COMPARISON_FILE, record)
    print(json.dumps(record) if options.json else tables[options.format](contents))
    if missing is not None:
        print(f"--sweep {options.sweep}: no plot, because {missing}", file=sys.stderr)
    return record


def compare(options: CompareOptions, sweep: str | None = None) -> Contents:
    """Read the results, group them by seed, sort them by the training option `sweep` if given, and test them against the base; with --by,
    on each group of queries too."""
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
    division = None if options.by is None else divide(results, options.by)
    groups = group_by_seed(results)
    if sweep is not None:
        groups = in_order_of(groups, sweep)
    base = next((group for group in groups for result in group.results if result.folder == base_folder), None)
    compared = Compared.of(groups, base, options.seed)
    parts = () if division is None else tuple(compare_parts(compared, division, options.seed))
    return Contents(compared, different, division, parts)
