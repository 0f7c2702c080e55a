"""The candidates that the first stage hands on, kept while it scores all pairs.

Shape suffixes: A texts, B videos, K candidates, S scores of a pair.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compute.processes import ProcessGroup
from train_head.scoring.top import Best, TopEntries


@dataclass(frozen=True)
class Candidates:
    """The best K videos of every text and the best K texts of every video, best first, or all if there are fewer.

    Of equal scores the entry listed first comes first. `boundary_ties` counts, for texts and for videos, the queries where that order
    decided which of several equal scores is a candidate.
    """

    video_AK: NDArray[np.int64]
    text_BK: NDArray[np.int64]
    boundary_ties: tuple[int, int]


class CandidateCollector:
    """Accumulates `Candidates` over all pairs. Memory grows with K times the number of texts and videos."""

    def __init__(self, texts: int, videos: int, k: int) -> None:
        self._k = k
        # The entry after the last candidate tells whether it ties with it.
        self._videos = TopEntries(texts, min(k + 1, videos), scores=0)
        self._texts = TopEntries(videos, min(k + 1, texts), scores=0)

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take a block."""
        retrieval_AB = scores_SAB.mean(dim=0).detach().cpu()
        self._videos.update(texts, videos, retrieval_AB, torch.empty(0, *retrieval_AB.shape))
        self._texts.update(videos, texts, retrieval_AB.T, torch.empty(0, *retrieval_AB.T.shape))

    def share_answers(self, processes: ProcessGroup) -> None:
        """Nothing: an answer is an entry as others here."""

    def share_counts(self, processes: ProcessGroup) -> None:
        self._videos, self._texts = self._videos.shared(processes), self._texts.shared(processes)

    def candidates(self) -> Candidates:
        """The candidates, after every pair has been seen."""
        videos, texts = self._videos.best(), self._texts.best()
        ties = (self._ties(videos), self._ties(texts))
        return Candidates(videos.entry_QK[:, : self._k], texts.entry_QK[:, : self._k], ties)

    def _ties(self, best: Best) -> int:
        if best.retrieval_QK.shape[1] <= self._k:
            return 0
        return int((best.retrieval_QK[:, self._k] == best.retrieval_QK[:, self._k - 1]).sum())
