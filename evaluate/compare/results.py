"""Reads results of `python -m evaluate`, groups them by seed, and checks that they can be compared."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from data.base.errors import UserError
from data.base.quoting import path_text
from data.cli.meaning import Meaning, filled, options_with
from data.metrics import DIRECTIONS, FIGURES, RECALL_SUM
from evaluate.ranks import RankTables
from train_head.options import TrainOptions
from train_head.run import HEAD_SOURCE, METRICS_FILE, RESULTS_FOLDER, RUN_FILE, TRAINED_WITH, RunOptions

MUST_MATCH = ("preset", "split", "queries", "gallery", "counts", "ties")
"""Fields of metrics.json that must be equal for results to be compared."""
_DIGEST = re.compile(r"(?<=\d)-[0-9a-f]{12}$")
"""The digest after the seed in the name of a sweep's run (train_head.sweep.runs.run_name)."""
COMPARISON_FILE = "comparison.json"
CANDIDATES, FIRST_STAGE = "candidates", "first stage"
"""Settings of two-stage results: K, and the run that found the candidates."""
_WITHIN = ("", f"{RESULTS_FOLDER}/", "*/", f"*/{RESULTS_FOLDER}/")
"""Where results are found below a given folder."""
_REQUIRED = (
    *MUST_MATCH,
    "run",
    "train_videos",
    "selected_on",
    *DIRECTIONS,
    RECALL_SUM,
    "trained",
    "cache_digest",
    "max_frames",
    "provenance",
)


@dataclass(frozen=True)
class Result:
    """One folder of results."""

    folder: Path
    metrics: dict[str, Any]
    """Contents of metrics.json."""
    ranks: RankTables

    @classmethod
    def read(cls, folder: Path) -> "Result":
        """Read a folder of results. Raises UserError if it holds none, or damaged ones."""
        path = folder / METRICS_FILE
        if not path.is_file():
            raise _no_results(folder, [])
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            missing = [name for name in _REQUIRED if name not in metrics]
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): evaluate again") from error
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}: evaluate again")
        return cls(folder, metrics, RankTables.read(folder))

    @property
    def training(self) -> dict[str, Any]:
        """The options that the run was trained with; empty for an untrained head."""
        # Older results do not record the training options separately; they are in the run's provenance.
        record = self.metrics if TRAINED_WITH in self.metrics else {"provenance": self.metrics["trained"] or {}}
        return dict(RunOptions.read(record, self.folder / METRICS_FILE).values)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the metrics, except the training seed."""
        decisive = _decisive(self.training) if self.training else {}
        evaluation = {"evaluation split": self.metrics["split"], "evaluation products": self._products}
        # Only those that the evaluation changed, so that results without the field compare with those of today.
        changed = self.metrics.get("temperatures", {}).get("instead_of", {})
        evaluation |= {f"evaluation {name}": self.metrics["temperatures"][name] for name in changed}
        run = {} if self.training else {"run": self.metrics["run"]}
        found = {name: self.metrics[name] for name in ("preset", "ties", "cache_digest", "max_frames")}
        source = {HEAD_SOURCE: self.metrics[HEAD_SOURCE]} if HEAD_SOURCE in self.metrics else {}
        return {**decisive, **evaluation, **self._two_stage, **run, **found, **source}

    def setting(self, name: str) -> Any:
        """A setting to show: as in `settings`, but a first stage by its run, and a temperature that the evaluation left alone with the
        value of the head."""
        if name in (CANDIDATES, FIRST_STAGE):
            stages = self.metrics.get("two_stage", {"candidates": "all", "run": "none"})
            return stages["candidates" if name == CANDIDATES else "run"]
        temperatures = self.metrics.get("temperatures", {})
        return self.settings.get(name, temperatures.get(name.removeprefix("evaluation ")))

    @property
    def _two_stage(self) -> dict[str, Any]:
        """What decides the candidates of a two-stage result, except the training seed of the first run."""
        if "two_stage" not in self.metrics:
            return {}
        found = self.metrics["two_stage"]
        training = RunOptions.read(found, self.folder / METRICS_FILE).values
        first = _decisive(training) if training else found["run"]
        return {CANDIDATES: found["candidates"], FIRST_STAGE: first}

    @property
    def _products(self) -> str:
        """The precision of the matrix products; older results have it only in their provenance."""
        return str(self.metrics["products"] if "products" in self.metrics else self.metrics["provenance"]["options"]["products"])


def _decisive(training: Mapping[str, Any]) -> dict[str, Any]:
    """The training options that determine the metrics, except the seed."""
    ignored = options_with(TrainOptions, Meaning.FREE, Meaning.REPEAT)
    return {name: value for name, value in filled(TrainOptions, training).items() if name not in ignored}


def folders_of_results(given: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The result folders that the given paths stand for, each once, and the runs among them without results.

    A path may be a result folder, a run with results inside, or a folder that holds several of these. If several paths are given,
    the CSV of a sweep and folders of comparisons are ignored, because `runs/*` in a shell expands to them too. Raises UserError if
    any other path has no results.
    """
    found: dict[Path, Path] = {}
    without: list[Path] = []
    for path in given:
        inside = [file.parent for pattern in _WITHIN for file in sorted(path.glob(f"{pattern}{METRICS_FILE}"))]
        runs = [file.parent for file in sorted(path.glob(f"*/{RUN_FILE}"))]
        if inside and inside[0] == path:
            inside, runs = [path], []
        without += [run for run in runs if inside and run / RESULTS_FOLDER not in inside and run not in inside]
        if not inside and (len(given) == 1 or not _ignorable(path)):
            raise _no_results(path, runs)
        for folder in inside:
            found.setdefault(folder.resolve(), folder)
    if not found:
        raise UserError("name at least one folder of results")
    return list(found.values()), without


def _ignorable(path: Path) -> bool:
    """Whether a path is a file or a comparison, which other commands write next to runs and results."""
    return path.is_file() or (path / COMPARISON_FILE).is_file()


def _no_results(path: Path, runs: Sequence[Path]) -> UserError:
    """The error for a path without results, with the remedy for what is there instead."""
    if not path.exists():
        return UserError(f"there is no folder {path}: name one that python -m evaluate wrote")
    if path.is_file():
        return UserError(f"{path} is a file: name the folder of results, or one that holds several, such as {path.parent}")
    if (path / RUN_FILE).is_file():
        results = path / RESULTS_FOLDER
        return UserError(f"{path} is a run without results: write them with python -m evaluate --cache CACHE --run {path} --out {results}")
    if runs:
        return UserError(f"{path} holds runs without results: sweep again with --evaluate, or run python -m evaluate for each of them")
    return UserError(f"{path} holds no {METRICS_FILE}: write one with python -m evaluate --out {path}")


@dataclass(frozen=True)
class SeedGroup:
    """Results that differ only in the training seed, or a single result."""

    label: str
    results: tuple[Result, ...]

    @cached_property
    def figures(self) -> dict[str, tuple[float, float | None]]:
        """Mean and sample standard deviation (n - 1) over seeds of every metric; the deviation of a single result is None.

        On a group of queries, a direction without queries and RSum may be missing: see `evaluate.compare.by`.
        """
        there = [direction for direction in DIRECTIONS if direction in self.first.metrics]
        found = {f"{direction} {name}": [r.metrics[direction][name] for r in self.results] for direction in there for name in FIGURES}
        if RECALL_SUM in self.first.metrics:
            found[RECALL_SUM] = [result.metrics[RECALL_SUM] for result in self.results]
        several = len(self.results) > 1
        return {name: (float(np.mean(values)), float(np.std(values, ddof=1)) if several else None) for name, values in found.items()}

    @property
    def first(self) -> Result:
        """The first result, for everything that the results share."""
        return self.results[0]


def group_by_seed(results: Sequence[Result]) -> list[SeedGroup]:
    """Group results that have the same settings and different seeds, in the order given.

    If a seed occurs twice in a group, the group is divided by the commit that trained the runs. If a seed still occurs twice, every
    result stands alone.
    """
    groups: list[list[Result]] = []
    for members in _grouped(results, lambda result: result.settings):
        if _seeds_differ(members):
            groups.append(members)
            continue
        for some in _grouped(members, lambda result: (result.metrics["trained"] or {}).get("commit")):
            groups.extend([some] if _seeds_differ(some) else [[result] for result in some])
    labels = [_label(members) for members in groups]
    return [SeedGroup(path_text(label), tuple(members)) for label, members in zip(_unique_labels(labels, groups), groups, strict=True)]


def mismatches(results: Sequence[Result]) -> list[str]:
    """One line for each MUST_MATCH field that differs, or one if the queries differ; empty if the results can be compared."""
    lines = []
    for name in MUST_MATCH:
        found = Counter(json.dumps(result.metrics[name], sort_keys=True) for result in results)
        if len(found) > 1:
            lines.append(f"{name}: " + " or ".join(found))
    others = [result for result in results[1:] if not result.ranks.same_queries(results[0].ranks)]
    if others and not lines:
        lines.append(f"queries: {others[0].folder} has other captions or videos than {results[0].folder}")
    return lines


def differing_settings(results: Sequence[Result]) -> list[str]:
    """Names of the settings that differ between the results."""
    names = dict.fromkeys(name for result in results for name in result.settings)
    return [name for name in names if len({repr(result.settings.get(name)) for result in results}) > 1]


def _grouped(results: Sequence[Result], key: Callable[[Result], Any]) -> list[list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(json.dumps(key(result), sort_keys=True), []).append(result)
    return list(groups.values())


def _seeds_differ(results: Sequence[Result]) -> bool:
    seeds = [result.training.get("seed") for result in results]
    return len(results) == 1 or (None not in seeds and len(set(seeds)) == len(seeds))


def _label(results: Sequence[Result]) -> str:
    # The digest in the name of a sweep's run means nothing to a reader; _unique_labels adds settings instead.
    runs = [_DIGEST.sub("", result.metrics["run"]) for result in results]
    if len(set(runs)) == 1:
        return str(runs[0])
    alike = takewhile(lambda characters: len(set(characters)) == 1, zip(*runs, strict=False))
    return "".join(characters[0] for characters in alike) + "*"


def _unique_labels(labels: Sequence[str], groups: Sequence[Sequence[Result]]) -> list[str]:
    """Make labels unique: append the settings that differ or, if none does, the folder."""
    unique = []
    for label, members in zip(labels, groups, strict=True):
        alike = [other[0] for other, name in zip(groups, labels, strict=True) if name == label]
        settings = [f"{name} {members[0].setting(name)}" for name in differing_settings(alike)]
        unique.append(f"{label} ({', '.join(settings)})" if settings else label)
    count = Counter(unique)
    return [label if count[label] == 1 else f"{label} ({members[0].folder})" for label, members in zip(unique, groups, strict=True)]
