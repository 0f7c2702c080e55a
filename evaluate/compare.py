"""Several results in one table: `python -m evaluate.compare DIR DIR ...`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from data.command import run_command
from data.errors import UserError
from data.provenance import write_json
from evaluate.folder import METRICS_FILE
from evaluate.table import Table

ROW = (
    "run",
    "preset",
    "split",
    "queries",
    "gallery",
    "counts",
    "train_videos",
    "selected_on",
    "ties",
    "text_to_video",
    "video_to_text",
    "RSum",
)


@dataclass(frozen=True)
class CompareOptions:
    """Print the results in several folders of python -m evaluate as one table."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that hold a metrics.json."""
    out: Path | None = None
    """File for the same table as JSON, a list of rows. Default: none is written."""


def main(options: CompareOptions) -> list[dict[str, Any]]:
    """Print the table, write its rows to OUT where one is named, and return them. Raises UserError where a folder holds no results."""
    rows = [read_row(folder) for folder in options.results]
    if not rows:
        raise UserError("name at least one folder of results")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, rows)
    print(format_rows(rows))
    return rows


def read_row(folder: Path) -> dict[str, Any]:
    """What a table shows of a folder's metrics.json."""
    path = folder / METRICS_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {METRICS_FILE}: write one with python -m evaluate --out {folder}")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return {name: result[name] for name in ROW}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): evaluate again") from error


if __name__ == "__main__":
    run_command(CompareOptions, main, prog="python -m evaluate.compare")
