"""How far a head tells the answer of a caption from its hardest negative: margins, and the variance of the head's scores on both.

The hardest negative of a text is the video with the highest retrieval score (the mean of the head's scores) among those that are no answer
to it. A video answers its own captions, and equal captions of other videos, word for word. With y_s the scores of a pair before the logit
scale, s = 1 ... S, and m their mean:

    margin      m(best answer) - m(hardest negative)        negative where a wrong video ranks first
    variance    1/S sum_s (y_s - m)^2                       for heads with several scores

Scores before the logit scale are cosine similarities, or what learned matrices make of them, so that runs with other scales compare. The
heads `tight` and `joint` have no scale: their margins are in units of their output, a logit.

Several answers that score the same, or several negatives, have the margin of any of them, and the variance of the one listed first. A tie
of answer and negative has the margin 0. A text that every video answers has no negative, and so no margin.

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compute.processes import ProcessGroup
from data.metrics import NanScore
from train_head.heads import Head
from train_head.scoring.answers import Answers
from train_head.scoring.top import Best, TopEntries

ALL_KINDS = ""
"""The key of the figures of all texts, whatever their kind."""


@dataclass(frozen=True)
class Contrast:
    """The best answer and the hardest negative of every text.

    Where a text has no negative, `negative_A` is -1 and the figures are NaN. Variances are None for a head with a single score.
    """

    answer_A: NDArray[np.int64]
    """The video that is the best answer."""
    negative_A: NDArray[np.int64]
    """The video that is the hardest negative."""
    margin_A: NDArray[np.float64]
    """In units of the scores before the logit scale: see the top of this file."""
    answer_variance_A: NDArray[np.float64] | None
    """The variance of the scores at the best answer, in squared units of the margin."""
    negative_variance_A: NDArray[np.float64] | None
    """The variance of the scores at the hardest negative."""


@dataclass(frozen=True)
class ContrastFigures:
    """Means over texts. A figure is None if no text has it."""

    texts: int
    """The texts behind the means: those that have a negative."""
    margin: float | None
    answer_variance: float | None
    negative_variance: float | None

    @property
    def variance_ratio(self) -> float | None:
        """The mean variance of answers divided by that of negatives: below 1 if the scores agree more on answers. None for 0 / 0."""
        if self.answer_variance is None or not self.negative_variance:
            return None
        return self.answer_variance / self.negative_variance


class ContrastCollector:
    """Accumulates a `Contrast` over all pairs: see `train_head.scoring.pairs.Accumulator`. Memory grows with the number of texts."""

    def __init__(self, answers: Answers, head: Head) -> None:
        self._answers, self._scale = answers, float(head.scale().detach())
        scores = len(head.score_names())
        self._kept = scores if scores > 1 else 0
        texts = len(answers.answers)
        self._right, self._wrong = (TopEntries(texts, kept=1, scores=self._kept) for _ in range(2))

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take a block. Raises NanScore if a score is NaN."""
        retrieval_AB, kept_SAB = scores_SAB.mean(dim=0).detach().cpu(), scores_SAB[: self._kept].detach().cpu()
        if retrieval_AB.isnan().any():
            a, b = retrieval_AB.isnan().nonzero()[0].tolist()
            raise NanScore(int(texts[a]), int(videos[b]))
        right_AB = torch.from_numpy(self._answers.right(texts[:, None].numpy(), videos.numpy()))
        self._wrong.update(texts, videos, retrieval_AB.masked_fill(right_AB, -torch.inf), kept_SAB)
        some = right_AB.any(dim=1)
        if some.any():
            retrieval_AB = retrieval_AB[some].masked_fill(~right_AB[some], -torch.inf)
            self._right.update(texts[some], videos, retrieval_AB, kept_SAB[:, some])

    def share_answers(self, processes: ProcessGroup) -> None:
        """Nothing: an answer is an entry as others here."""

    def share_counts(self, processes: ProcessGroup) -> None:
        self._right, self._wrong = self._right.shared(processes), self._wrong.shared(processes)

    def contrast(self) -> Contrast:
        """The result, after every pair has been seen."""
        right, wrong = self._right.best(), self._wrong.best()
        # A text whose answers are all videos has seen masked scores alone.
        there_A = wrong.retrieval_QK[:, 0] > -np.inf
        margin_A = (right.retrieval_QK[:, 0].astype(np.float64) - wrong.retrieval_QK[:, 0]) / self._scale
        return Contrast(
            answer_A=right.entry_QK[:, 0],
            negative_A=np.where(there_A, wrong.entry_QK[:, 0], -1),
            margin_A=np.where(there_A, margin_A, np.nan),
            answer_variance_A=self._variance(right, there_A),
            negative_variance_A=self._variance(wrong, there_A),
        )

    def _variance(self, best: Best, there_A: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        if not self._kept:
            return None
        variance_A = (best.score_SQK[:, :, 0].astype(np.float64) / self._scale).var(axis=0)
        return np.where(there_A, variance_A, np.nan)


def contrast_figures(contrast: Contrast, kinds: Sequence[str] | None) -> dict[str, ContrastFigures]:
    """The means over all texts, under ALL_KINDS, and over the texts of every kind, sorted by name. `kinds`: one per text, or None.

    >>> contrast_figures(collector.contrast(), split.kinds)["order"].margin
    """
    return {kind: _figures(contrast, of_kind_A) for kind, of_kind_A in texts_by_kind(len(contrast.margin_A), kinds).items()}


def texts_by_kind(texts: int, kinds: Sequence[str] | None) -> dict[str, NDArray[np.bool_]]:
    """Which texts are of a kind [A]: all under ALL_KINDS, then those of every kind, sorted by name. An empty kind is none."""
    found: dict[str, NDArray[np.bool_]] = {ALL_KINDS: np.ones(texts, dtype=np.bool_)}
    if kinds is not None:
        of_text_A = np.array(kinds)
        found |= {kind: of_text_A == kind for kind in sorted({*kinds} - {ALL_KINDS})}
    return found


def _figures(contrast: Contrast, of_kind_A: NDArray[np.bool_]) -> ContrastFigures:
    counted_A = of_kind_A & ~np.isnan(contrast.margin_A)

    def mean(value_A: NDArray[np.float64] | None) -> float | None:
        return None if value_A is None or not counted_A.any() else float(value_A[counted_A].mean())

    return ContrastFigures(
        int(counted_A.sum()), mean(contrast.margin_A), mean(contrast.answer_variance_A), mean(contrast.negative_variance_A)
    )
