"""Collects the scores that the report needs: the top entries of every query in both directions, positives, and hardest negatives.

Memory grows with the number of texts and videos, not with the number of pairs. Ties are ordered by entry index, so the result does
not depend on the order in which blocks arrive.

Shape suffixes: A texts, B videos, G videos whose texts are in a block, S scores of a pair, Q queries, E entries of a block, K entries kept.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compute.processes import ProcessGroup

KEPT = 10
"""Entries kept for every query."""

_NONE = torch.iinfo(torch.int64).max
"""Marks an empty place; sorts after every entry."""


class Best(NamedTuple):
    """The top entries of each query, best first: their indices and all their scores. K is KEPT, or the number of entries if smaller."""

    entry_QK: NDArray[np.int64]
    score_SQK: NDArray[np.float32]


@dataclass(frozen=True)
class Collected:
    """The scores that the report needs.

    In text to video, the entries are videos. In video to text, they are texts, but only the best text of each video, as in the
    metrics. The positive of a text is its own video. Its hardest negative is the best other video; NaN if there is only one video.
    """

    videos_of_texts: Best
    texts_of_videos: Best
    positive_SA: NDArray[np.float32]
    negative_SA: NDArray[np.float32]


class ReportCollector:
    """Accumulates `Collected` over all pairs."""

    def __init__(self, answers: NDArray[np.int64], videos: int, scores: int) -> None:
        """`answers` [A]: the index of each text's video; `videos`: number of videos; `scores`: S."""
        self._answer_A = torch.tensor(answers)
        self._videos = _Running(len(answers), scores)
        self._texts = _Running(videos, scores)
        self._positive_SA = torch.full((scores, len(answers)), torch.nan)

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take a block. All texts of a video must be in the same block."""
        scores_SAB = scores_SAB.detach().cpu().float()
        retrieval_AB = scores_SAB.mean(dim=0)
        answer_A = self._answer_A[texts]
        rows, columns = (answer_A[:, None] == videos).nonzero(as_tuple=True)
        self._positive_SA[:, texts[rows]] = scores_SAB[:, rows, columns]
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
        return Collected(videos_of_texts, self._texts.best(), self._positive_SA.numpy(), negative_SA)


class _Running:
    """The top KEPT entries of each query so far."""

    def __init__(self, queries: int, scores: int) -> None:
        self._entry_QK = torch.full((queries, KEPT), _NONE)
        self._retrieval_QK = torch.full((queries, KEPT), -torch.inf)
        self._score_SQK = torch.full((scores, queries, KEPT), torch.nan)

    def update(self, queries: Tensor, entries: Tensor, retrieval_QE: Tensor, score_SQE: Tensor) -> None:
        """Take entries with their retrieval scores and all their scores. Entries are [E], or [Q, E] if each query has others."""
        entry_QE = entries.expand(retrieval_QE.shape)
        candidate = torch.cat([self._entry_QK[queries], entry_QE], dim=1)
        retrieval = torch.cat([self._retrieval_QK[queries], retrieval_QE], dim=1)
        # Entries that tie with the KEPT-th highest score may still win by their index, so they are considered too.
        last_Q1 = retrieval.topk(KEPT, dim=1).values[:, -1:]
        most = int((retrieval >= last_Q1).sum(dim=1).max())
        place = retrieval.topk(most, dim=1).indices
        place = place.gather(1, candidate.gather(1, place).argsort(dim=1))
        place = place.gather(1, retrieval.gather(1, place).argsort(dim=1, descending=True, stable=True))[:, :KEPT]
        scores = torch.cat([self._score_SQK[:, queries], score_SQE], dim=2)
        self._entry_QK[queries] = candidate.gather(1, place)
        self._retrieval_QK[queries] = retrieval.gather(1, place)
        self._score_SQK[:, queries] = scores.gather(2, place.expand(len(scores), -1, -1))

    def shared(self, processes: ProcessGroup) -> "_Running":
        """Merge the entries that all processes kept; each process has seen other entries."""
        whole = _Running(len(self._entry_QK), len(self._score_SQK))
        kept = (processes.gather(tensor) for tensor in (self._entry_QK, self._retrieval_QK, self._score_SQK))
        for entry_QK, retrieval_QK, score_SQK in zip(*kept, strict=True):
            whole.update(torch.arange(len(entry_QK)), entry_QK, retrieval_QK, score_SQK)
        return whole

    def best(self) -> Best:
        """The entries kept. Every query has seen the same number of entries."""
        filled = int((self._entry_QK[0] != _NONE).sum())
        return Best(self._entry_QK[:, :filled].numpy(), self._score_SQK[:, :, :filled].numpy())


def _best_texts(retrieval_AB: Tensor, answer_A: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """For each group of texts (those of one video) and each video, the row of the best text [G, B] and its score [G, B].

    Of texts that tie, the first one counts.
    """
    owner_G, group_A = answer_A.unique(return_inverse=True)
    group_AB = group_A[:, None].expand_as(retrieval_AB)
    shape = (len(owner_G), retrieval_AB.shape[1])
    best_GB = torch.full(shape, -torch.inf).scatter_reduce(0, group_AB, retrieval_AB, "amax")
    index_AB = torch.where(retrieval_AB == best_GB[group_A], texts[:, None], _NONE)
    text_GB = torch.full(shape, _NONE).scatter_reduce(0, group_AB, index_AB, "amin")
    order = texts.argsort()
    return order[torch.searchsorted(texts[order], text_GB)], best_GB
