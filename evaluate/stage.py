"""The third stage: all pairs of a split, both directions, metrics with their provenance."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from data.cache import FeatureCache
from data.device import budget_bytes, find_device
from data.provenance import provenance, write_json
from evaluate.options import EvaluateOptions
from evaluate.table import METRICS_FILE, format_rows
from train_head.pairs import evaluate_pairs
from train_head.run import check_fits, load_head
from train_head.splits import Split, load_split

# Of the memory budget, bytes for what is being scored and what waits to be counted; measured, growing with D.
SCORING_BYTES, SCORING_BYTES_A_DIMENSION = 2**25, 2**19


def evaluate(options: EvaluateOptions) -> Path:
    """Score all pairs and write OUT/metrics.json; returns OUT.

    Raises UserError for what the user can put right: no such cache, run or split, a run that does not fit, missing features.
    """
    start = time.perf_counter()
    device = find_device(options.device)
    cache = FeatureCache(options.cache)
    head, record = load_head(options.run, cache, device)
    trained_frames = record.get("provenance", {}).get("options", {}).get("max_frames")
    max_frames = trained_frames if options.max_frames is None else options.max_frames
    features_budget = max(0, budget_bytes(options.memory_budget) - SCORING_BYTES - SCORING_BYTES_A_DIMENSION * cache.dimension)
    split = load_split(cache, options.split, options.preset, features_budget, max_frames, options.allow_missing)
    check_fits(head, split)
    head.products = torch.bfloat16 if options.products == "bf16" else None
    left = features_budget - sum(part.bytes_held for part in (split.texts.words, split.texts.sentences, split.videos.frames))
    metrics = evaluate_pairs(head, split.texts, split.videos, split.answers, max(0, left), options.quiet, options.ties)
    row: dict[str, Any] = {
        "run": options.run,
        "preset": split.preset,
        "split": split.name,
        "queries": len(split.answers),
        "gallery": len(split.videos.ids),
        "counts": split.counts,
        "train_videos": record.get("train_counts", {}).get("videos_scored"),
        "selected_on": record.get("selected_on"),
        "ties": options.ties,
        **metrics,
    }
    result = {
        **row,
        "protocol": _protocol(split),
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
    print(json.dumps(row) if options.json else format_rows([row]))
    return options.out


def _protocol(split: Split) -> str:
    """What is ranked, in words."""
    if len(split.answers) == len(split.videos.ids):
        return "one caption a video: each ranks the videos, and each video the captions"
    return "several captions a video: each ranks the videos; a video ranks the videos by the best of their captions"
