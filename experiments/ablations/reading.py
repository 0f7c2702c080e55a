"""The runs of each world, found by the settings of experiments/groups.py."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data.base.errors import UserError
from data.cli.meaning import Meaning, filled, options_with
from experiments.groups import GROUPS, Group, Setting, resolved
from experiments.rows import WORLD, read_rows, require_complete
from train_head.options import TrainOptions
from train_head.sweep.rows import DATA

RECIPE = ("epochs", "batch_size", "lr")
"""The options of which all runs of a world have the same value."""
SET = ("queries", "gallery", "train_videos", "cache_digest", "weights", DATA)
"""What else is the same for all runs of a world that say it."""
SHOWN = ("queries", "gallery", "train_videos", "parameters", "device", "threads", "training_cpu_seconds", "scoring_cpu_seconds")
"""Other columns that the page says or computes something of, for every run."""
UNREAD = ("recipe", "out", "cache")
"""Options that say nothing which others do not say."""
RECALLS = ("t2v R@1", "t2v R@5", "v2t R@1")
"""The recalls that are shown, without their split."""
SCORING_MS = "scoring_ms"
"""A column of our own: milliseconds in which a core worked, per query."""

Key = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class World:
    """The runs on one set."""

    name: str
    rows: pd.DataFrame
    dropped: int
    """Older rows of the same setting and seed."""
    unknown: int
    """Rows of settings that no group has."""
    _by_key: Mapping[Key, pd.DataFrame]

    def of(self, setting: Setting) -> pd.DataFrame:
        """The runs of a setting by seed, in the order of seeds; empty if there are none."""
        return self._by_key.get(_key(dataclasses.asdict(resolved(setting))), self.rows.iloc[:0])

    def of_group(self, group: Group) -> dict[str, pd.DataFrame]:
        """The runs of each setting of a group that has some, by its label."""
        found = {label: self.of(setting) for label, setting in group.settings.items()}
        return {label: runs for label, runs in found.items() if len(runs)}


def read_worlds(path: Path, split: str) -> list[World]:
    """The worlds of a CSV, in the order of their first rows. Raises UserError where it cannot be compared or is damaged."""
    table = read_rows(path)
    if f"{split} RSum" not in table:
        raise UserError(f"--split {split}: {path} has no figures of it: name the split that the study measured")
    lacking = [name for name in ("training_cpu_seconds", "scoring_cpu_seconds", "queries") if name not in table]
    if lacking:
        raise UserError(f"{path} is of a sweep that did not count {lacking[0]}: run the study again into another folder")
    if table.empty:
        raise UserError(f"{path} has no runs: train some with python -m experiments.study")
    require_complete(table, (*RECIPE, *SHOWN, *(f"{split} {name}" for name in (*RECALLS, "RSum"))), path)
    table = table.assign(**{SCORING_MS: 1000 * table["scoring_cpu_seconds"] / table["queries"]})
    return [_world(str(name), rows, path) for name, rows in table.groupby(WORLD, sort=False)]


def _world(name: str, rows: pd.DataFrame, path: Path) -> World:
    for column in (*RECIPE, *SET):
        values = set(rows[column].dropna()) if column in rows else set()
        if len(values) > 1:
            listed = ", ".join(sorted(f"{value:.12}" if isinstance(value, str) else f"{value:g}" for value in values))
            raise UserError(f"{path}: the runs of world {name} differ in {column} ({listed}): keep those of one value")
    keys = [_key(row) for row in _options_of(rows)]
    places = pd.DataFrame({"key": keys, "seed": rows["seed"].tolist()})
    _require_distinct(name, rows.assign(place=places.groupby(["key", "seed"]).ngroup().to_numpy()), path)
    newest = ~places.duplicated(keep="last").to_numpy()
    kept = rows[newest]
    by_key: dict[Key, list[int]] = {}
    for place, key in enumerate(key for key, keep in zip(keys, newest, strict=True) if keep):
        by_key.setdefault(key, []).append(place)
    found = {key: kept.iloc[places].set_index("seed").sort_index() for key, places in by_key.items()}
    known = {_key(dataclasses.asdict(resolved(setting))) for group in GROUPS for setting in group.settings.values()}
    return World(name, kept, len(rows) - len(kept), sum(len(own) for key, own in found.items() if key not in known), found)


def _require_distinct(name: str, rows: pd.DataFrame, path: Path) -> None:
    """Raise UserError if two runs of one commit differ in what no column says. Rows of one place have the same options and seed."""
    if "commit" not in rows:
        return
    runs = rows.drop_duplicates(["place", "commit", "run"])
    same = runs[runs.duplicated(["place", "commit"], keep=False)]
    if len(same):
        first, second = same[same["place"] == same["place"].iloc[0]]["run"].iloc[:2]
        raise UserError(
            f"{path}: runs {first} and {second} of world {name} have the same options and seed: keep one, or restore the columns"
        )


def _options_of(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The options that the rows have columns of, with None for empty fields."""
    names = [name for name in _compared() if name in rows]
    for row in rows[names].to_dict("records"):
        yield {str(name): None if pd.isna(value) else value for name, value in row.items()}


def _compared() -> tuple[str, ...]:
    """The options by which settings are told apart."""
    names = (*options_with(TrainOptions, Meaning.VARIED), "candidates_run")
    return tuple(name for name in names if name not in RECIPE + UNREAD)


def _key(options: Mapping[str, Any]) -> Key:
    """What tells settings apart. An option that is missing or None has the value from before it existed, if there is one."""
    full = filled(TrainOptions, options)
    defaults = {field.name: field.default for field in dataclasses.fields(TrainOptions)}
    return tuple(full.get(name, defaults[name]) for name in _compared())
