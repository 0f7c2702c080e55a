"""Chooses the temperature of the guidance for an untrained head on the validation split: `python -m evaluate --zero-shot-tau-from val`."""

from collections.abc import Iterator, Mapping
from math import log2
from typing import Any

from data.base.errors import UserError
from data.cache import FeatureCache
from data.compute.processes import ProcessGroup
from data.metrics import RECALL_NAMES, RECALL_SUM, TEXT_TO_VIDEO, RankCounter
from evaluate.options import EvaluateOptions
from train_head.heads import HEADS, Head, head_class, is_own, make_head
from train_head.run import ZERO_SHOT
from train_head.scoring.pairs import RankedScores, score_all_pairs
from train_head.scoring.splits import load_split
from train_head.temperatures import TAU

TRIED = tuple(TAU * 2.0**power for power in range(-10, 8))
"""From 0.005, for features of norm 1, whose dot products with a text differ by hundredths, to 640, for norms of about 100. Between two
neighbours, the differences that a softmax sees double."""

FEW = 100
"""Of fewer queries, one moves R@1 by more than a point, and a choice may be chance."""


def check_choice(options: EvaluateOptions) -> None:
    """Raise UserError if --zero-shot-tau-from is given and has nothing to choose."""
    chosen_on = options.zero_shot_tau_from
    if chosen_on is None:
        return
    option = f"--zero-shot-tau-from {chosen_on}"
    if options.tau is not None:
        raise UserError(f"{option} chooses tau, and --tau {options.tau:g} gives it: leave one of them out")
    name = options.run.removeprefix(ZERO_SHOT)
    if not options.run.startswith(ZERO_SHOT):
        raise UserError(
            f"{option} is for untrained heads, such as --run {ZERO_SHOT}glccl: {options.run} keeps the tau that it was trained at; leave "
            "the option out, or train with another --tau"
        )
    if (name in HEADS or is_own(name)) and "tau" not in head_class(name).TEMPERATURES:
        raise UserError(f"{option}: head {name} has no tau: leave the option out")
    if options.split == chosen_on:
        raise UserError(f"{option} with --split {chosen_on} would choose tau on the queries that it evaluates: evaluate another split")


def choose_tau(options: EvaluateOptions, cache: FeatureCache, head: Head, memory_budget: int, processes: ProcessGroup) -> dict[str, Any]:
    """Score the validation split at every value of TRIED, without training.

    Returns the value with the highest RSum as `tau`, the table as `tried`, and what it was chosen on. Of equal values, the one nearest to
    the paper's, then the smaller. RSum rather than R@1, because it moves more smoothly on the few hundred queries of a validation split.

    Raises UserError if the cache has no such split, or if the processes have different ones.
    """
    assert options.zero_shot_tau_from is not None
    max_words = head.most_words
    try:
        split = load_split(
            cache,
            options.zero_shot_tau_from,
            options.preset,
            memory_budget,
            options.max_frames,
            options.allow_missing,
            options.name,
            max_words,
            head.READS_PATCHES,
        )
    except UserError as error:
        raise UserError(f"--zero-shot-tau-from {options.zero_shot_tau_from}: {error} (or give --tau)", error.listed) from error
    processes.agree({"the validation split": [cache.fingerprint(split.videos.ids, head.READS_PATCHES), len(split.answers)]})
    rows = []
    for number, tau in enumerate(TRIED, start=1):
        at_tau = make_head(head.name, head.config.at_temperatures({"tau": tau}), head.execution).to(head.logit_scale.device)
        counter = RankCounter(split.answers, len(split.videos.ids), options.ties)
        score_all_pairs(
            at_tau,
            split.texts,
            split.videos,
            split.answers,
            [RankedScores(counter)],
            memory_budget - split.videos.bytes_held,
            options.quiet,
            f"tau {number}/{len(TRIED)}",
            processes,
        )
        metrics = counter.metrics()
        rows.append({"tau": tau, TEXT_TO_VIDEO: metrics[TEXT_TO_VIDEO], RECALL_SUM: metrics[RECALL_SUM]})
    best = max(rows, key=lambda row: (row[RECALL_SUM], -abs(log2(row["tau"] / TAU)), -row["tau"]))
    counts = {"queries": len(split.answers), "gallery": len(split.videos.ids)}
    return {"tau": best["tau"], "chosen_on": options.zero_shot_tau_from, "chosen_by": RECALL_SUM, **counts, "tried": rows}


def choice_lines(choice: Mapping[str, Any]) -> Iterator[str]:
    """The result of `choose_tau` as lines for people: the table of tried values, the chosen one marked."""
    yield (
        f"tau chosen by {choice['chosen_by']} on {choice['chosen_on']} ({choice['queries']:,} queries, {choice['gallery']:,} videos), "
        "without training"
    )
    yield f"  {'tau':>8}{''.join(f'{name:>8}' for name in RECALL_NAMES)}{RECALL_SUM:>8}"
    for row in choice["tried"]:
        figures = [*(row[TEXT_TO_VIDEO][name] for name in RECALL_NAMES), row[RECALL_SUM]]
        mark = "  <- chosen" if row["tau"] == choice["tau"] else ""
        yield f"  {row['tau']:>8.4g}{''.join(f'{figure:8.1f}' for figure in figures)}{mark}"
    if choice["queries"] < FEW:
        yield f"  {choice['queries']:,} queries are few: each moves R@1 by {100 / choice['queries']:.1f}, so this choice may be chance"
    if choice["tau"] in (TRIED[0], TRIED[-1]):
        yield f"  {choice['tau']:.4g} is the {'smallest' if choice['tau'] == TRIED[0] else 'largest'} value tried: try others with --tau"
