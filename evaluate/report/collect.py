"""Collects the scores that the report needs: the top entries of every query in both directions, positives, and hardest negatives.

Memory grows with the number of texts and videos, not with the number of pairs. Ties are ordered by entry index, so the result does
not depend on the order in which blocks arrive.

Shape suffixes: A texts, B videos, G videos whose texts are in a block, S scores of a pair, Q queries, E entries of a block, K entries kept.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compute.processes import ProcessGroup
from train_head.scoring.answers import Answers
from train_head.scoring.top import NONE, Best, TopEntries

KEPT = 10
"""Entries kept for every query."""


@dataclass(frozen=True)
class Collected:
    """The scores that the report needs.

    In text to video, the entries are videos. In video to text, they are texts, but only the best text of each video, as in the
    metrics. The positive of a text is its own video. Its hardest negative is the best video that is no answer to it (see
    `train_head.scoring.answers`); NaN if every video is one. `other_variance` is the unbiased variance over the scores of a pair, averaged
    over all pairs that are no answers: the denominator of the CSC loss over the whole split. NaN with a single score or no such pair.
    """

    videos_of_texts: Best
    texts_of_videos: Best
    positive_SA: NDArray[np.float32]
    negative_SA: NDArray[np.float32]
    other_variance: float


class ReportCollector:
    """Accumulates `Collected` over all pairs."""

    def __init__(self, answers: Answers, scores: int) -> None:
        """`scores`: S."""
        self._answers, self._answer_A = answers, torch.tensor(answers.answers)
        texts = len(self._answer_A)
        self._videos = TopEntries(texts, KEPT, scores)
        self._texts = TopEntries(answers.videos, KEPT, scores)
        self._negatives = TopEntries(texts, 1, scores)
        self._positive_SA = torch.full((scores, texts), torch.nan)
        self._other_sums = torch.zeros(2, dtype=torch.float64)
        """Of the pairs that are no answers, the sum of their variances and their number."""

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take a block. All texts of a video must be in the same block."""
        scores_SAB = scores_SAB.detach().cpu().float()
        retrieval_AB = scores_SAB.mean(dim=0)
        answer_A = self._answer_A[texts]
        rows, columns = (answer_A[:, None] == videos).nonzero(as_tuple=True)
        self._positive_SA[:, texts[rows]] = scores_SAB[:, rows, columns]
        right_AB = torch.from_numpy(self._answers.right(texts[:, None].numpy(), videos.numpy()))
        if len(scores_SAB) > 1:
            variance_AB = (scores_SAB - retrieval_AB).square_().sum(dim=0).masked_fill_(right_AB, 0)
            self._other_sums[0] += variance_AB.sum(dtype=torch.float64) / (len(scores_SAB) - 1)
            self._other_sums[1] += right_AB.numel() - right_AB.sum()
        self._videos.update(texts, videos, retrieval_AB, scores_SAB)
        self._negatives.update(texts, videos, retrieval_AB.masked_fill(right_AB, -torch.inf), scores_SAB)
        row_GB, best_GB = _best_texts(retrieval_AB, answer_A, texts)
        best_SGB = scores_SAB.gather(1, row_GB.expand(len(scores_SAB), -1, -1))
        self._texts.update(videos, texts[row_GB].T, best_GB.T, best_SGB.transpose(1, 2))

    def share_answers(self, processes: ProcessGroup) -> None:
        """Nothing: an answer is an entry as others here."""

    def share_counts(self, processes: ProcessGroup) -> None:
        # Each positive was scored by one process; the others hold NaN.
        self._positive_SA.masked_fill_(self._positive_SA.isnan(), -torch.inf)
        processes.maximum(self._positive_SA)
        processes.sum(self._other_sums)
        self._videos, self._texts = self._videos.shared(processes), self._texts.shared(processes)
        self._negatives = self._negatives.shared(processes)

    def collected(self) -> Collected:
        """The collected scores, after every pair has been seen."""
        assert not self._positive_SA.isnan().any(), "not every pair was scored"
        negatives = self._negatives.best()
        # A text that every video answers has seen masked scores alone.
        there_A = negatives.retrieval_QK[:, 0] > -np.inf
        negative_SA = np.where(there_A, negatives.score_SQK[:, :, 0], np.float32(np.nan))
        variance_sum, others = self._other_sums.tolist()
        other_variance = variance_sum / others if others else float("nan")
        return Collected(self._videos.best(), self._texts.best(), self._positive_SA.numpy(), negative_SA, other_variance)


def _best_texts(retrieval_AB: Tensor, answer_A: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """For each group of texts (those of one video) and each video, the row of the best text [G, B] and its score [G, B].

    Of texts that tie, the first one counts.
    """
    owner_G, group_A = answer_A.unique(return_inverse=True)
    group_AB = group_A[:, None].expand_as(retrieval_AB)
    shape = (len(owner_G), retrieval_AB.shape[1])
    best_GB = torch.full(shape, -torch.inf).scatter_reduce(0, group_AB, retrieval_AB, "amax")
    index_AB = torch.where(retrieval_AB == best_GB[group_A], texts[:, None], NONE)
    text_GB = torch.full(shape, NONE).scatter_reduce(0, group_AB, index_AB, "amin")
    order = texts.argsort()
    return order[torch.searchsorted(texts[order], text_GB)], best_GB
