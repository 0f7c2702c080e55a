"""Measures a run of a sweep: the metrics of a split, and the columns of the CSV, over all captions and over those of every kind.

Heads that share their work between pairs score all pairs. Those that work pair by pair re-rank the candidates of a first stage, where the
sweep has one: then most pairs have no score, and there are no margins and no variances.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from data.metrics import RECALL_NAMES, RECALL_SUM, RECALLS, TEXT_TO_VIDEO, VIDEO_TO_TEXT, Metrics, RankCounter, Ranks
from train_head.heads import Head
from train_head.scoring.answers import Answers
from train_head.scoring.contrast import ALL_KINDS, ContrastCollector, ContrastFigures, contrast_figures, texts_by_kind
from train_head.scoring.pairs import Accumulator, RankedScores, score_all_pairs
from train_head.scoring.rerank import score_pairs
from train_head.scoring.splits import Split
from train_head.scoring.two_stage import FirstPass

SHORT = {TEXT_TO_VIDEO: "t2v", VIDEO_TO_TEXT: "v2t"}
"""The directions in the names of columns."""
KIND_RECALLS = (1, 5)
"""The text-to-video recalls of every kind."""
NO_CONTRAST = ContrastFigures(0, None, None, None)


@dataclass(frozen=True)
class Measured:
    """The metrics of a split, and its columns of the CSV."""

    metrics: Metrics
    columns: dict[str, float | None]


def measure(head: Head, split: Split, memory_budget: int, first: FirstPass | None = None) -> Measured:
    """Score all pairs of the split, or the candidates of `first`. `memory_budget`: bytes of encoded videos to hold at once.

    Raises UserError if a score is NaN.
    """
    if first is not None:
        nearest_A = first.candidates.video_AK[:, 0]
        score_P = score_pairs(head, split.texts, split.videos, first.pairs, nearest_A, memory_budget)
        metrics, ranks, figures = first.metrics(score_P), first.reranked(score_P)[0], {}
    else:
        videos = len(split.videos.ids)
        counter = RankCounter(split.answers, videos)
        collector = ContrastCollector(Answers(split.texts.texts, split.answers, videos), head)
        accumulators: list[Accumulator] = [RankedScores(counter), collector]
        score_all_pairs(head, split.texts, split.videos, split.answers, accumulators, memory_budget)
        metrics, ranks = counter.metrics(), counter.ranks()[0]
        figures = contrast_figures(collector.contrast(), split.kinds)
    return Measured(metrics, metric_columns(split.name, metrics) | _further_columns(split, ranks, figures))


def metric_columns(split: str, metrics: Metrics) -> dict[str, float | None]:
    """The metrics of both directions, such as `test t2v R@1`."""
    flat = {f"{split} {name} {key}": value for direction, name in SHORT.items() for key, value in metrics[direction].items()}
    return flat | {f"{split} {RECALL_SUM}": metrics[RECALL_SUM]}


def _further_columns(split: Split, ranks: Ranks, figures: Mapping[str, ContrastFigures]) -> dict[str, float | None]:
    """Margins and variances, such as `test margin`, and for every kind those and recalls, such as `test margin [order]`."""
    columns: dict[str, float | None] = {}
    for kind, of_kind_A in texts_by_kind(len(split.answers), split.kinds).items():
        suffix, found = f" [{kind}]" if kind != ALL_KINDS else "", figures.get(kind, NO_CONTRAST)
        if kind != ALL_KINDS:
            columns |= {
                f"{split.name} {SHORT[TEXT_TO_VIDEO]} {name}{suffix}": 100 * float(ranks.recall(k)[of_kind_A].mean())
                for k, name in zip(RECALLS, RECALL_NAMES, strict=True)
                if k in KIND_RECALLS
            }
        columns |= {
            f"{split.name} margin{suffix}": found.margin,
            f"{split.name} variance of answers{suffix}": found.answer_variance,
            f"{split.name} variance of negatives{suffix}": found.negative_variance,
            f"{split.name} variance ratio{suffix}": found.variance_ratio,
        }
    return columns
