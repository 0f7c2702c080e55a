"""Re-ranks the candidates of another run: `python -m evaluate --run RUN --candidates K --candidates-run FIRST`.

The first stage scores all pairs with a run that is fast. With the head of --run, the second scores the K best videos of every text and the
K best texts of every video, each pair once. Both directions then rank every query: see `train_head.scoring.ranks`.
"""

from typing import Any

import numpy as np

from data.base.errors import UserError
from data.base.progress import say
from data.compute.processes import ProcessGroup
from data.metrics import DIRECTIONS
from evaluate.cost import Cost, measured
from evaluate.inputs import EvaluationInputs, ReadyRun, Scored
from evaluate.options import EvaluateOptions
from evaluate.two_stage.gains import gains
from search.retrieval.first_stage import check_first_stage
from train_head.run import TRAINED_WITH, trained_on
from train_head.scoring.cost import check_cost, flops_a_pair, warm_up
from train_head.scoring.ranks import answers_there
from train_head.scoring.rerank import Pairs, score_pairs
from train_head.scoring.two_stage import FirstPass

_ALL_PAIRS = ("dual_softmax", "query_bank", "save_scores", "run_file", "zero_shot_tau_from")
"""Options that score all pairs with the evaluated head."""


def check_candidates_run(options: EvaluateOptions) -> None:
    """Raise UserError for options that do not go with --candidates-run."""
    check_first_stage(options.candidates_run, options.candidates, options.index, options.candidates_from)
    if options.candidates_run is None or options.candidates is None:
        return
    if "," in options.candidates:
        raise UserError(f"--candidates {options.candidates} with --candidates-run must be a single number, such as --candidates 50")
    for name in _ALL_PAIRS:
        value = getattr(options, name)
        # Unset options are None or False. A number of 0 is set, though it equals False.
        if value is not None and value is not False:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} scores all pairs with --run, and --candidates-run avoids that: leave one of them out")


def score_in_two_stages(options: EvaluateOptions, inputs: EvaluationInputs, processes: ProcessGroup) -> Scored:
    """Score all pairs with the first run, and its candidates with the evaluated one.

    Writes no report, whose plots and examples need the scores of all pairs, and says so. Raises UserError before the work if a stage
    would take a day or more.
    """
    first, second = inputs.first, inputs.evaluated
    assert first is not None
    split, k = second.split, inputs.candidates[0]
    texts, videos = len(split.answers), len(split.videos.ids)
    _check_costs(first, second, k, options.quiet, processes)
    if options.report and not options.quiet and processes.rank == 0:
        say("note: no report.html is written, because it shows scores of all pairs, and --candidates-run leaves most of them out")
    warm_up(first.head, first.split.texts, first.split.videos)
    with measured(first.head.logit_scale.device) as first_cost:
        found = FirstPass.of(first.head, first.split, k, inputs.memory_left, options.quiet, processes)
    candidates, pairs = found.candidates, found.pairs
    warm_up(second.head, split.texts, split.videos)
    with measured(second.head.logit_scale.device) as second_cost:
        score_P = score_pairs(
            second.head, split.texts, split.videos, pairs, candidates.video_AK[:, 0], inputs.memory_left, processes, options.quiet
        )
    ranks, metrics, asking = found.reranked(score_P), found.metrics(score_P), found.ranks[1].query_Q
    owners = (candidates.video_AK, split.answers[candidates.text_BK[asking]])
    there = (answers_there(owners[0], split.answers), answers_there(owners[1], asking))
    stages = [
        _stage_row(first, flops_a_pair(first.head, first.split) * texts * videos, texts * videos, first_cost),
        _stage_row(second, _flops(second, pairs), len(pairs.text_P), second_cost),
    ]
    two_stage = {
        "run": first.name,
        "candidates": k,
        **found.metrics(),
        "answers_among_candidates": {name: 100 * float(there_Q.mean()) for name, there_Q in zip(DIRECTIONS, there, strict=True)},
        **gains(found.ranks, ranks, there, np.searchsorted(asking, split.answers), options.seed),
        "boundary_ties": dict(zip(DIRECTIONS, candidates.boundary_ties, strict=True)),
        "stages": stages,
        "max_frames": first.max_frames,
        "temperatures": first.head.temperatures(),
        "train_videos": first.record.get("train_counts", {}).get("videos_scored"),
        "selected_on": first.record.get("selected_on"),
        "trained_on": 0 if split.name == "train" else len(trained_on(first.name).intersection(split.videos.ids)),
        TRAINED_WITH: first.trained_with.recorded(),
    }
    return Scored(ranks, {**metrics, "scores": [], "post_processing": [], "candidates": [], "two_stage": two_stage})


def _check_costs(first: ReadyRun, second: ReadyRun, k: int, quiet: bool, processes: ProcessGroup) -> None:
    """Say what each stage takes, or raise UserError if one takes too much."""
    texts, videos = len(first.split.answers), len(first.split.videos.ids)
    check_cost(
        first.head,
        first.split.texts,
        first.split.videos,
        f"scoring {texts:,} x {videos:,} pairs in the first stage",
        flops_a_pair(first.head, first.split) * texts * videos,
        "name a faster run with --candidates-run, such as zero-shot:mean",
        quiet,
        processes,
    )
    most, at_once, remedy = texts * min(k, videos) + videos * min(k, texts), None, "use fewer --candidates"
    if second.head.texts_alone:
        most = min(most, texts * videos)
        at_once = -(-most // texts)
    else:
        # Texts that are scored together are scored with the candidates of all of them.
        most = texts * videos
        remedy = "set WORDS_PER_STRIP = 1 in the class of the head, and hardly more pairs than the candidates are scored"
    check_cost(
        second.head,
        second.split.texts,
        second.split.videos,
        f"re-ranking up to {most:,} pairs",
        flops_a_pair(second.head, second.split) * most,
        remedy,
        quiet,
        processes,
        videos_at_once=at_once,
    )


def _flops(run: ReadyRun, pairs: Pairs) -> float:
    """The FLOPs of these pairs, by the head's formula."""
    words_P, frames_P = run.split.texts.words.length_N[pairs.text_P], run.split.videos.frames.length_N[pairs.video_P]
    flops_P = run.head.flops(words_P, frames_P)
    return float(np.broadcast_to(flops_P, words_P.shape).sum())


def _stage_row(run: ReadyRun, flops: float, pairs: int, cost: Cost) -> dict[str, Any]:
    """The cost of a stage. Numbers that vary between runs and machines are under "measured"."""
    return {
        "run": run.name,
        "pairs": pairs,
        "flops": flops,
        "measured": {"seconds": cost.seconds, "peak_extra_mib": cost.peak_extra_mib},
    }
