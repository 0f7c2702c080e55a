"""The rows of a sweep: runs.csv, read, and refused where its runs saw other captions or videos than the cache has."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from data.base.errors import UserError, cannot_read
from data.cache import FeatureCache
from train_head.options import TrainOptions
from train_head.scoring.splits import split_digest
from train_head.stage import training_split

RUNS_FILE = "runs.csv"
DATA = "data_digest"
"""The column with the `data_digest` of a run. Rows of earlier versions have none."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of runs.csv, none if there is no such file. Raises UserError if it is damaged or of something else."""
    if not path.exists():
        return []
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({str(error).strip()}): delete it and sweep again") from error
    if "run" not in table:
        raise UserError(f"{path} is not from a sweep (it has no column run): name another --out")
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return rows


def data_digest(cache: FeatureCache, run: TrainOptions, report_on: str) -> str:
    """SHA-256 of the captions, videos and kinds that a run is trained, chosen and measured on. Raises UserError if a split is missing."""
    splits = (training_split(cache, run), run.select_on, report_on)
    return hashlib.sha256("".join(split_digest(cache, split, run.preset, run.name) for split in splits).encode()).hexdigest()


def require_same_data(
    rows: Iterable["Mapping[str, Any] | pd.Series[Any]"], digest: str, cache: FeatureCache, where: str, option: str
) -> None:
    """Raise UserError if a row has another `data_digest`: no run of it would be trained again, and its figures would stand beside new ones.

    A row without a digest is taken as it is. `where`: what holds the rows, which `option` names.
    """
    other = [row["run"] for row in rows if isinstance(row.get(DATA), str) and row[DATA] != digest]
    if other:
        raise UserError(
            f"{where} holds runs on other captions or videos than {cache.path} has now, such as {other[0]}: name another {option}"
        )
