"""The third stage: all pairs of a split, both directions, metrics with their provenance."""

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from data.cache import FeatureCache
from data.device import budget_bytes, find_device
from data.errors import UserError
from data.processes import ProcessGroup, on_this_machine
from data.provenance import plain, provenance, write_json
from evaluate.options import EvaluateOptions
from evaluate.table import METRICS_FILE, format_rows
from evaluate.two_stage import candidate_rows, format_candidates, parse_candidates
from train_head.heads import Head
from train_head.pairs import evaluate_pairs
from train_head.run import check_fits, load_head
from train_head.splits import Split, load_split

# Of the memory budget, bytes for what is being scored and what waits to be counted; measured, growing with D.
SCORING_BYTES, SCORING_BYTES_A_DIMENSION = 2**25, 2**19


FREE_TO_DIFFER = {"cache", "run", "out", "index", "memory_budget", "device", "process_timeout", "quiet", "json"}
"""Options that may differ between processes: they do not decide the result, or what they name is compared by its content."""


def evaluate(options: EvaluateOptions) -> Path:
    """Score all pairs and write OUT/metrics.json; returns OUT. Under torchrun processes share the videos, and the first one writes.

    Raises UserError for what the user can put right: no such cache, run or split, a run that does not fit, missing features, processes
    that were given different ones.
    """
    if options.candidates and options.ties == "reference":
        raise UserError("--candidates credits ties by expectation: leave --ties reference out")
    if options.candidates is None and (options.index is not None or options.candidates_from != "frames"):
        raise UserError("--index and --candidates-from are for --candidates: name how many, such as --candidates 100")
    device = find_device(options.device)
    with ProcessGroup.joined(device, options.process_timeout) as processes:
        if options.index is not None and processes.count > 1:
            raise UserError("--index is for one process: leave it out under torchrun, where each builds its share")
        return _evaluate(options, device, processes)


def _evaluate(options: EvaluateOptions, device: torch.device, processes: ProcessGroup) -> Path:
    start = time.perf_counter()
    cache = FeatureCache(options.cache)
    head, record = load_head(options.run, cache, device)
    trained_frames = record.get("provenance", {}).get("options", {}).get("max_frames")
    max_frames = trained_frames if options.max_frames is None else options.max_frames
    budget = budget_bytes(options.memory_budget) // on_this_machine()
    features_budget = max(0, budget - SCORING_BYTES - SCORING_BYTES_A_DIMENSION * cache.dimension)
    split = load_split(cache, options.split, options.preset, features_budget, max_frames, options.allow_missing)
    check_fits(head, split)
    head.products = torch.bfloat16 if options.products == "bf16" else None
    numbers = parse_candidates(options.candidates, len(split.videos.ids)) if options.candidates else []
    processes.agree(_facts(options, cache, head, split))
    left = max(0, features_budget - sum(part.bytes_held for part in (split.texts.words, split.texts.sentences, split.videos.frames)))
    metrics = evaluate_pairs(head, split.texts, split.videos, split.answers, left, options.quiet, options.ties, processes)
    candidates = candidate_rows(
        numbers,
        options.candidates_from,
        cache,
        head,
        split,
        metrics["text_to_video"],
        left,
        options.index,
        processes,
        options.quiet,
    )
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
        **({"candidates": candidates} if candidates else {}),
    }
    result = {
        **row,
        "protocol": _protocol(split),
        "max_frames": max_frames,
        "processes": processes.count,
        "seconds": round(time.perf_counter() - start, 2),
        "cache_digest": cache.digest,
        "weights": cache.weights,
        "extracted": cache.provenance,
        "trained": record.get("provenance"),
        "provenance": provenance(options),
    }
    if processes.rank == 0:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / METRICS_FILE, result)
        if options.json:
            print(json.dumps(row))
        else:
            print(format_rows([row]))
            if candidates:
                print(format_candidates(candidates))
    return options.out


def _facts(options: EvaluateOptions, cache: FeatureCache, head: Head, split: Split) -> dict[str, Any]:
    """What must be the same in all processes."""
    weights = hashlib.sha256()
    for name, value in sorted(head.state_dict().items()):
        weights.update(name.encode() + value.cpu().numpy().tobytes())
    given = {f"--{name.replace('_', '-')}": plain(value) for name, value in asdict(options).items() if name not in FREE_TO_DIFFER}
    captions = hashlib.sha256("\0".join(split.texts.texts).encode()).hexdigest()
    # By content: the same cache may be mounted elsewhere on another machine.
    content = {"the cache": cache.fingerprint(split.videos.ids), "the captions": captions, "the head": weights.hexdigest()}
    return given | content


def _protocol(split: Split) -> str:
    """What is ranked, in words."""
    if len(split.answers) == len(split.videos.ids):
        return "one caption a video: each ranks the videos, and each video the captions"
    return "several captions a video: each ranks the videos; a video ranks the videos by the best of their captions"
