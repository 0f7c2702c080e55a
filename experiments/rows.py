"""The rows of runs, as a sweep writes them and as the study gathers them: one CSV of all worlds, with the column `world`."""

import csv
import math
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pandas as pd

from data.base.errors import UserError, cannot_read
from train_head.options import TrainOptions

WORLD = "world"
"""The column that says which set a run was trained on."""
COLUMNS = ("run", "head", "seed")
COUNTS = ("queries", "gallery", "train_videos", "parameters", "threads")
REMEDY = "delete it, and run python -m experiments.study again"
ROW_REMEDY = "delete that row, and run python -m experiments.study again"


def read_rows(path: Path, world: str | None = None) -> pd.DataFrame:
    """The rows of a CSV, with their world.

    world: the world of all rows, for the CSV of a sweep, which does not name it.

    Raises UserError for a file that is missing, damaged, or of something else.
    """
    try:
        table = pd.read_csv(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: write it with python -m experiments.study") from error
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({str(error).strip()}): {REMEDY}") from error
    _require_whole_rows(path)
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(f"{path} is not a table of runs (it has no column {missing[0]}): name that of python -m experiments.study")
    if world is not None:
        table = table.drop(columns=[WORLD], errors="ignore")
        table.insert(0, WORLD, world)
    elif WORLD not in table or table[WORLD].isna().any():
        raise UserError(f"{path} does not say the world of every run: gather it with python -m experiments.study")
    if table[list(COLUMNS)].isna().any(axis=None):
        raise UserError(f"{path} is damaged (a row has no {' or '.join(COLUMNS)}): {ROW_REMEDY}")
    numbers, switches = _number_options(), {name for name, kind in get_type_hints(TrainOptions).items() if kind is bool}
    for name in map(str, table):
        if name in switches:
            # One other word makes text of all values.
            right = table[name].isna() | table[name].isin([True, False, "True", "False"])
            _require(right, table, name, "True or False", path)
        elif name in numbers or name in COUNTS or name.startswith(("test ", "val ")) or name.endswith("_seconds"):
            _require_numbers(table, name, path)
    return table


def _require_whole_rows(path: Path) -> None:
    """Raise UserError for a row with fewer fields than the header, such as the last one of a file that was cut."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        header = next(lines)
        for line in lines:
            if 0 < len(line) < len(header):
                raise UserError(f"{path} is damaged (line {lines.line_num} has {len(line)} of {len(header)} fields): {ROW_REMEDY}")


def _require_numbers(table: pd.DataFrame, name: str, path: Path) -> None:
    """Raise UserError for a value of this column that is no finite number, or for a seed that is no whole number of at least 0."""
    values = pd.to_numeric(table[name], errors="coerce")
    _require(table[name].isna() | values.abs().lt(math.inf), table, name, "a finite number", path)
    if name == "seed":
        _require(values.ge(0) & values.mod(1).eq(0), table, name, "a whole number of at least 0", path)


def _require(right: "pd.Series[bool]", table: pd.DataFrame, name: str, kind: str, path: Path) -> None:
    """Raise UserError for the first row whose value of this column is not `right`."""
    if not right.all():
        row = table[~right].iloc[0]
        raise UserError(f"{path} is damaged (run {row['run']} has {row[name]!s:.40} as {name}, which is not {kind}): {ROW_REMEDY}")


def require_complete(table: pd.DataFrame, columns: Collection[str], path: Path) -> None:
    """Raise UserError unless every row has a value in each of these columns."""
    for name in columns:
        if name not in table:
            raise UserError(f"{path} is damaged (it has no column {name}): {REMEDY}")
        if (lacking := table[name].isna()).any():
            raise UserError(f"{path} is damaged (run {table.loc[lacking, 'run'].iloc[0]} has no {name}): {ROW_REMEDY}")


def _number_options() -> set[str]:
    """The training options that are numbers and never words."""
    found = {name: {hint, *get_args(hint)} for name, hint in get_type_hints(TrainOptions).items()}
    words = {name for name, kinds in found.items() if str in kinds or any(get_origin(kind) is Literal for kind in kinds)}
    return {name for name, kinds in found.items() if kinds & {int, float}} - words
