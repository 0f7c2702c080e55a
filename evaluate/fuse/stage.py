"""Fuses saved matrices, and writes the results as an evaluation does."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.base.errors import UserError, check_seed
from data.base.progress import say
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import require_writable_folder
from data.cli.options_file import OPTIONS_FILE, write_options
from data.metrics import DIRECTIONS, RECALL_SUM, recall_sum, summary
from evaluate.bootstrap import intervals
from evaluate.compare.table import format_evaluation
from evaluate.folder import EVALUATION_PATTERNS, check_out, replacing
from evaluate.fuse.aligned import Alignment
from evaluate.fuse.fusion import Rule, fused_ranks
from evaluate.fuse.options import FuseOptions
from evaluate.ranks import RankTables, protocol
from evaluate.scores.matrix import ScoreMatrix
from train_head.run import METRICS_FILE

_SAME = ("preset", "split")
"""What the matrices must agree on beside their ids, as far as it is known."""
_MOST_K = 1e9
_LEAST_WEIGHT = 1e-100
"""Sums of scores times smaller or much larger weights leave the range of float64."""


def fuse(options: FuseOptions) -> Path:
    """Fuse the matrices, write metrics.json and the ranks of all queries to OUT, and return OUT.

    Raises UserError for anything the user can fix: options, matrices that do not fit each other, scores that are not finite.
    """
    start = time.perf_counter()
    rule = _rule(options)
    check_out(options.out, EVALUATION_PATTERNS)
    require_writable_folder(options.out)
    matrices = [ScoreMatrix.read(path) for path in options.matrices]
    _require_same_split(matrices)
    unknown = [str(matrix.path) for matrix in matrices if matrix.made["split"] is None]
    if unknown and not options.quiet:
        say(f"note: no NAME.json says what made {', '.join(unknown)}: the results lack the training, the cache, and what else is not known")
    alignment = Alignment.of(matrices)
    ranks = fused_ranks(alignment, rule, options.quiet)
    tables = RankTables.of_ids(alignment.captions, alignment.answers, alignment.videos, ranks)
    figures = dict(zip(DIRECTIONS, map(summary, ranks), strict=True))
    made = [matrix.made for matrix in matrices]
    result: dict[str, Any] = {
        "run": _label(options, rule, made),
        **{name: _first_known(made, name) for name in _SAME},
        "queries": len(alignment.answers),
        "gallery": len(alignment.videos),
        "counts": _first_known(made, "counts"),
        "trained_on": max((one["trained_on"] for one in made if one["trained_on"] is not None), default=None),
        "train_videos": max((one["train_videos"] for one in made if one["train_videos"] is not None), default=None),
        "selected_on": _selected_on(made),
        "ties": "expected",
        **figures,
        RECALL_SUM: recall_sum(*figures.values()),
        "intervals": intervals(ranks, tables.owners(), options.seed),
        "scores": [],
        "post_processing": [],
        "fused": [_source(matrix, weight) for matrix, weight in zip(matrices, rule.weights, strict=True)],
        "method": rule.method,
        "normalize": rule.normalization if rule.method == "sum" else None,
        "rrf_k": rule.k if rule.method == "rrf" else None,
        "protocol": protocol(len(alignment.answers), len(alignment.videos)),
        "max_frames": _one_or_all([one["max_frames"] for one in made]),
        "products": _one_or_all([one["products"] for one in made]),
        "cache_digest": _one_or_all([one["cache_digest"] for one in made]),
        "weights": _one_or_all([one["weights"] for one in made]),
        "seconds": round(time.perf_counter() - start, 2),
        "trained": None,
        "provenance": provenance(options),
    }
    with replacing(options.out, EVALUATION_PATTERNS) as new:
        write_options(new / OPTIONS_FILE, options, "python -m evaluate.fuse")
        tables.write(new)
        write_json(new / METRICS_FILE, result)
    shown = ("run", *_SAME, "queries", "gallery", "counts", *DIRECTIONS, RECALL_SUM)
    print(json.dumps({name: result[name] for name in shown}) if options.json else format_evaluation(result))
    return options.out


def _rule(options: FuseOptions) -> Rule:
    """The rule of the options. Raises UserError for options that do not go together."""
    count = len(options.matrices)
    if count == 0:
        raise UserError("nothing to fuse: name matrices, such as those that evaluate --save-scores wrote")
    default = FuseOptions(options.matrices, options.out)
    if options.method == "rrf" and options.normalize != default.normalize:
        raise UserError(f"--normalize {options.normalize} is for --method sum, because ranks need no normalisation: leave it out")
    if options.method == "sum" and options.rrf_k != default.rrf_k:
        raise UserError(f"--rrf-k {options.rrf_k:g} is for --method rrf: add --method rrf, or leave it out")
    if not 0 <= options.rrf_k <= _MOST_K:
        raise UserError(f"--rrf-k {options.rrf_k:g} must be a number of at least 0 and at most {_MOST_K:g}, beyond which ranks round away")
    check_seed(options.seed)
    given = ["1"] * count if options.weights is None else options.weights.split(",")
    try:
        weights = tuple(float(weight) for weight in given)
    except ValueError as error:
        raise UserError(f"--weights {options.weights}: write numbers separated by commas, one for each matrix") from error
    if len(weights) != count:
        raise UserError(f"--weights {options.weights}: {len(weights)} weights for {count} matrices: give one for each")
    if not all(math.isfinite(weight) for weight in weights) or not any(weights):
        raise UserError(f"--weights {options.weights}: weights are finite numbers, and not all of them 0")
    if not _LEAST_WEIGHT <= max(map(abs, weights)) <= 1 / _LEAST_WEIGHT:
        raise UserError(f"--weights {options.weights}: the largest must be from {_LEAST_WEIGHT:g} to {1 / _LEAST_WEIGHT:g}: scale them")
    return Rule(options.method, weights, options.normalize, options.rrf_k)


def _require_same_split(matrices: Sequence[ScoreMatrix]) -> None:
    for name in _SAME:
        first, *others = [matrix for matrix in matrices if matrix.made[name] is not None] or matrices[:1]
        for other in others:
            if other.made[name] != first.made[name]:
                both = f"{other.path} is of {name} {other.made[name]}, and {first.path} of {first.made[name]}"
                raise UserError(f"{both}: fuse scores of the same split alone")


def _label(options: FuseOptions, rule: Rule, made: Sequence[dict[str, Any]]) -> str:
    """The name of the result in tables, such as `sum of 2 runs/glccl, 1 runs/mean`."""
    runs = [f"{weight:g} {one['run']}" if options.weights else str(one["run"]) for weight, one in zip(rule.weights, made, strict=True)]
    return f"{rule.method} of {', '.join(runs)}"


def _first_known(made: Sequence[dict[str, Any]], name: str) -> Any:
    return next((one[name] for one in made if one[name] is not None), None)


def _source(matrix: ScoreMatrix, weight: float) -> dict[str, Any]:
    kept = ("run", "scores", "dtype", "cache_digest", "weights", "selected_on", "train_videos", "head_source")
    return {"matrix": str(matrix.path), "weight": weight, **{name: matrix.made[name] for name in kept if name in matrix.made}}


def _selected_on(made: Sequence[dict[str, Any]]) -> str | None:
    """The split that chose an epoch: test if it chose any, so that the result is labelled."""
    found = {one["selected_on"] for one in made} - {None}
    return "test" if "test" in found else next(iter(found), None)


def _one_or_all(values: Sequence[Any]) -> Any:
    """The value that all share, or all of them."""
    return values[0] if all(value == values[0] for value in values) else list(values)
