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
from train_head.scoring.top import NONE, Best, TopEntries

KEPT = 10
"""Entries kept for every query."""


@dataclass(frozen=True)
class Collected:
    """The scores that the report needs.

    In text to video, the entries are videos. In video to text, they are texts, but only the best text of each video, as in the
    metrics. The positive of a text is its own video. Its hardest negative is the best other video; NaN if there is only one video.
    `other_variance` is the unbiased variance over the scores of a pair, averaged over all pairs that do not match: the denominator of
    the CSC loss over the whole split. NaN with a single score or a single video.
    """

    videos_of_texts: Best
    texts_of_videos: Best
    positive_SA: NDArray[np.float32]
    negative_SA: NDArray[np.float32]
    other_variance: float


class ReportCollector:
    """Accumulates `Collected` over all pairs."""

    def __init__(self, answers: NDArray[np.int64], videos: int, scores: int) -> None:
        """`answers` [A]: the index of each text's video; `videos`: number of videos; `scores`: S."""
        self._answer_A = torch.tensor(answers)
        self._videos = TopEntries(len(answers), KEPT, scores)
        self._texts = TopEntries(videos, KEPT, scores)
        self._positive_SA = torch.full((scores, len(answers)), torch.nan)
        self._variance_sum, self._others = torch.zeros(1, dtype=torch.float64), len(answers) * (videos - 1)

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take a block. All texts of a video must be in the same block."""
        scores_SAB = scores_SAB.detach().cpu().float()
        retrieval_AB = scores_SAB.mean(dim=0)
        answer_A = self._answer_A[texts]
        rows, columns = (answer_A[:, None] == videos).nonzero(as_tuple=True)
        self._positive_SA[:, texts[rows]] = scores_SAB[:, rows, columns]
        if len(scores_SAB) > 1:
            variance_AB = (scores_SAB - retrieval_AB).square_().sum(dim=0)
            variance_AB[rows, columns] = 0
            self._variance_sum += variance_AB.sum(dtype=torch.float64) / (len(scores_SAB) - 1)
        self._videos.update(texts, videos, retrieval_AB, scores_SAB)
        row_GB, best_GB = _best_texts(retrieval_AB, answer_A, texts)
        best_SGB = scores_SAB.gather(1, row_GB.expand(len(scores_SAB), -1, -1))
        self._texts.update(videos, texts[row_GB].T, best_GB.T, best_SGB.transpose(1, 2))

    def share_answers(self, processes: ProcessGroup) -> None:
        """Nothing: an answer is an entry as others here."""

    def share_counts(self, processes: ProcessGroup) -> None:
        # Each positive was scored by one process; the others hold NaN.
        self._positive_SA.masked_fill_(self._positive_SA.isnan(), -torch.inf)
        processes.maximum(self._positive_SA)
        processes.sum(self._variance_sum)
        self._videos, self._texts = self._videos.shared(processes), self._texts.shared(processes)

    def collected(self) -> Collected:
        """The collected scores, after every pair has been seen."""
        assert not self._positive_SA.isnan().any(), "not every pair was scored"
        videos_of_texts = self._videos.best()
        # The best entry that is not the answer: the second if the first is the answer.
        entry_AK = videos_of_texts.entry_QK
        if entry_AK.shape[1] > 1:
            place_A = (entry_AK[:, 0] == self._answer_A.numpy()).astype(np.int64)
            negative_SA = videos_of_texts.score_SQK[:, np.arange(len(place_A)), place_A]
        else:
            negative_SA = np.full_like(self._positive_SA.numpy(), np.nan)
        with_others = self._others > 0 and len(self._positive_SA) > 1
        other_variance = float(self._variance_sum) / self._others if with_others else float("nan")
        return Collected(videos_of_texts, self._texts.best(), self._positive_SA.numpy(), negative_SA, other_variance)


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
