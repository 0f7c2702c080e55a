"""The rows of runs, as a sweep writes them and as the study gathers them: one CSV of all worlds, with the column `world`."""

from pathlib import Path

import pandas as pd

from data.base.errors import UserError, cannot_read

RUNS_FILE = "runs.csv"
"""What a sweep writes into its folder."""
WORLD = "world"
"""The column that says which set a run was trained on."""
COLUMNS = ("run", "head", "seed")


def read_rows(path: Path, world: str | None = None) -> pd.DataFrame:
    """The rows of a CSV, with their world.

    world: the world of all rows, for the CSV of a sweep, which does not name it.

    Raises UserError for a file that is missing, damaged, or of something else.
    """
    remedy = "delete it, and run python -m experiments.study again"
    try:
        table = pd.read_csv(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: write it with python -m experiments.study") from error
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(f"{path} is not a table of runs (it has no column {missing[0]}): name that of python -m experiments.study")
    if world is not None:
        table = table.drop(columns=[WORLD], errors="ignore")
        table.insert(0, WORLD, world)
    elif WORLD not in table or table[WORLD].isna().any():
        raise UserError(f"{path} does not say the world of every run: gather it with python -m experiments.study")
    if table[list(COLUMNS)].isna().any(axis=None):
        raise UserError(f"{path} is damaged (a row has no {' or '.join(COLUMNS)}): {remedy}")
    return table
