"""The third stage: all pairs of a split, both directions, metrics with their provenance."""

import json
import time
from pathlib import Path
from typing import Any

from data.cache import FeatureCache
from data.device import budget_bytes, find_device
from data.errors import UserError
from data.provenance import provenance, write_json
from evaluate.options import EvaluateOptions
from evaluate.table import METRICS_FILE, format_rows
from train_head.pairs import evaluate_pairs
from train_head.run import check_fits, load_head
from train_head.splits import load_split


def evaluate(options: EvaluateOptions) -> Path:
    """Score all pairs and write OUT/metrics.json; returns OUT.

    Raises UserError for what the user can put right: no such cache, run or split, a run that does not fit, missing features.
    """
    start = time.perf_counter()
    device = find_device(options.device)
    cache = FeatureCache(options.cache)
    budget = budget_bytes(options.memory_budget)
    head, record = load_head(options.run, cache, device)
    trained_frames = record.get("provenance", {}).get("options", {}).get("max_frames")
    max_frames = trained_frames if options.max_frames is None else options.max_frames
    split = load_split(cache, options.split, options.preset, budget, max_frames, options.allow_missing)
    check_fits(head, split)
    try:
        metrics = evaluate_pairs(head, split.texts, split.videos, split.answers, budget, options.quiet)
    except ValueError as error:
        raise UserError(f"--run {options.run} on {options.cache}: {error}") from error
    row: dict[str, Any] = {
        "run": options.run,
        "split": split.name,
        "queries": len(split.answers),
        "gallery": len(split.videos.ids),
        **metrics,
    }
    result = {
        **row,
        "counts": split.counts,
        "max_frames": max_frames,
        "seconds": round(time.perf_counter() - start, 2),
        "cache_digest": cache.digest,
        "weights": cache.weights,
        "extracted": cache.provenance,
        "trained": record.get("provenance"),
        "provenance": provenance(options),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / METRICS_FILE, result)
    print(json.dumps(row) if options.json else _headline(split.counts) + "\n" + format_rows([row]))
    return options.out


def _headline(counts: dict[str, int]) -> str:
    return (
        f"scored {counts['captions']} of {counts['captions_expected']} captions "
        f"against {counts['videos']} of {counts['videos_expected']} videos"
    )
