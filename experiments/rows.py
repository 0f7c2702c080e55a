"""The rows of runs, as a sweep writes them and as the study gathers them: one CSV of all worlds, with the column `world`."""

from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pandas as pd

from data.base.errors import UserError, cannot_read
from train_head.options import TrainOptions

WORLD = "world"
"""The column that says which set a run was trained on."""
COLUMNS = ("run", "head", "seed")
REMEDY = "delete it, and run python -m experiments.study again"


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
        raise UserError(f"{path} is damaged ({error}): {REMEDY}") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(f"{path} is not a table of runs (it has no column {missing[0]}): name that of python -m experiments.study")
    if world is not None:
        table = table.drop(columns=[WORLD], errors="ignore")
        table.insert(0, WORLD, world)
    elif WORLD not in table or table[WORLD].isna().any():
        raise UserError(f"{path} does not say the world of every run: gather it with python -m experiments.study")
    if table[list(COLUMNS)].isna().any(axis=None):
        raise UserError(f"{path} is damaged (a row has no {' or '.join(COLUMNS)}): {REMEDY}")
    numbers = _number_options()
    for name in map(str, table):
        if name in numbers or name.startswith(("test ", "val ")) or name.endswith("_seconds"):
            words = table[name][table[name].notna() & pd.to_numeric(table[name], errors="coerce").isna()]
            if len(words):
                raise UserError(f"{path} is damaged ({words.iloc[0]!r} is no number, in column {name}): {REMEDY}")
    return table


def require_complete(table: pd.DataFrame, columns: Collection[str], path: Path) -> None:
    """Raise UserError unless every row has a value in each of these columns."""
    for name in columns:
        if name not in table:
            raise UserError(f"{path} is damaged (it has no column {name}): {REMEDY}")
        if (lacking := table[name].isna()).any():
            raise UserError(f"{path} is damaged (run {table.loc[lacking, 'run'].iloc[0]} has no {name}): {REMEDY}")


def _number_options() -> set[str]:
    """The training options that are numbers and never words."""
    found = {name: {hint, *get_args(hint)} for name, hint in get_type_hints(TrainOptions).items()}
    words = {name for name, kinds in found.items() if str in kinds or any(get_origin(kind) is Literal for kind in kinds)}
    return {name for name, kinds in found.items() if kinds & {int, float}} - words
