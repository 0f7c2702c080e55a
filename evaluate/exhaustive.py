"""Scores all pairs of a split with one run: the ranks, and everything else that needs every score."""

from contextlib import ExitStack
from typing import Any

import torch

from data.base.errors import UserError
from data.cache.features import TextFeatures
from data.compute.processes import ProcessGroup
from data.metrics import TEXT_TO_VIDEO
from evaluate.cost import Cost, measured
from evaluate.inputs import EvaluationInputs, Scored
from evaluate.options import EvaluateOptions
from evaluate.post_processing import BANK_SPLIT, PostProcessing, load_bank
from evaluate.rankings import Rankings
from evaluate.report.collect import ReportCollector
from evaluate.scores.exports import Exports
from evaluate.two_stage.rows import candidate_rows, ways
from search.index.words import ContentWords
from train_head.heads import Head
from train_head.run import check_words
from train_head.scoring.answers import Answers
from train_head.scoring.cost import check_cost, flops_a_pair, warm_up
from train_head.scoring.pairs import score_all_pairs
from train_head.scoring.splits import Split


def score_exhaustively(options: EvaluateOptions, inputs: EvaluationInputs, processes: ProcessGroup, outputs: ExitStack) -> Scored:
    """Score all pairs, and with --candidates those of an index once more. Files that are written meanwhile stay open on `outputs`.

    Raises UserError before that if all pairs would take a day or more, or if the words of candidates by words cannot be told.
    """
    head, split = inputs.evaluated.head, inputs.evaluated.split
    words = ContentWords.of_cache(inputs.cache, split.texts.texts) if options.candidates_from == "words" else None
    bank, memory_left = None, inputs.memory_left
    if options.query_bank is not None:
        bank = _bank(options, inputs)
        memory_left -= bank.words.bytes_held + bank.sentences.bytes_held
    _check_cost(options, inputs, bank, processes)
    rankings = Rankings(head.score_names(), split.answers, len(split.videos.ids), options.ties)
    post_processing = PostProcessing(head, split, options.dual_softmax, bank, options.ties)
    exports = Exports(options, head, split)
    outputs.enter_context(exports.opened(processes))
    collector = None
    if options.report:
        collector = ReportCollector(Answers(split.texts.texts, split.answers, len(split.videos.ids)), len(head.score_names()))
    warm_up(head, split.texts, split.videos)
    with measured(head.logit_scale.device) as cost:
        accumulators = [rankings.accumulator, *post_processing.accumulators, *exports.accumulators]
        accumulators += [collector] if collector is not None else []
        score_all_pairs(head, split.texts, split.videos, split.answers, accumulators, memory_left, options.quiet, processes=processes)
    metrics = rankings.metrics()
    post_processed = post_processing.rows(memory_left, options.quiet, processes)
    candidates = candidate_rows(
        inputs.candidates,
        options.candidates_from,
        inputs.cache,
        head,
        split,
        metrics[TEXT_TO_VIDEO],
        memory_left,
        words,
        options.index,
        processes,
        options.quiet,
    )
    figures = {
        **metrics,
        "scores": rankings.rows(),
        "post_processing": post_processed,
        "candidates": candidates,
        "cost": _cost_row(cost, head, split),
    }
    return Scored(rankings.ranks(), figures, exports, collector)


def _bank(options: EvaluateOptions, inputs: EvaluationInputs) -> TextFeatures:
    """The captions of --query-bank. Raises UserError if they cannot be had."""
    head, split = inputs.evaluated.head, inputs.evaluated.split
    assert options.query_bank is not None
    if split.name == BANK_SPLIT:
        raise UserError(f"--query-bank with --split {split.name}: the bank would contain the queries; leave it out, or use another split")
    bank = load_bank(inputs.cache, split.preset, options.query_bank, options.seed, head.most_words, inputs.memory_left, options.name)
    check_words(head, bank, f"split {BANK_SPLIT!r}")
    return bank


def _check_cost(options: EvaluateOptions, inputs: EvaluationInputs, bank: TextFeatures | None, processes: ProcessGroup) -> None:
    """Say what the scoring takes, or raise UserError if that is too much."""
    head, split = inputs.evaluated.head, inputs.evaluated.split
    texts, videos = len(split.answers), len(split.videos.ids)
    corrected = options.dual_softmax or bank is not None
    pairs = texts * videos * (2 if corrected else 1) + (len(bank.texts) * videos if bank is not None else 0)
    pairs += texts * sum(inputs.candidates) * len(ways(options.candidates_from))
    more = " and ".join([*["the corrected ranks"] * corrected, *["--candidates"] * bool(inputs.candidates)])
    what = f"scoring {texts:,} x {videos:,} pairs{more and f', and more for {more},'}"
    remedy = "re-rank the candidates of a faster run instead, with --candidates K --candidates-run RUN"
    check_cost(head, split.texts, split.videos, what, flops_a_pair(head, split) * pairs, remedy, options.quiet, processes)


def _cost_row(cost: Cost, head: Head, split: Split) -> dict[str, Any]:
    """The cost of scoring. Numbers that vary between runs and machines are under "measured"."""
    queries = len(split.answers)
    return {
        "flops_a_pair": flops_a_pair(head, split),
        "pairs": queries * len(split.videos.ids),
        "device": str(head.logit_scale.device),
        "threads": torch.get_num_threads(),
        "measured": {
            "seconds": cost.seconds,
            "ms_a_query": 1000 * cost.seconds / queries,
            "queries_a_second": queries / cost.seconds,
            "peak_extra_mib": cost.peak_extra_mib,
        },
    }
