"""Keeps the best entries of every query while blocks of scores arrive.

Memory grows with the number of queries, not with the number of pairs. Ties are ordered by entry index, so the result does not depend on the
order in which blocks arrive.

Shape suffixes: S scores of a pair, Q queries, E entries of a block, K entries kept.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compute.processes import ProcessGroup

NONE = torch.iinfo(torch.int64).max
"""Marks an empty place; sorts after every entry."""


class Best(NamedTuple):
    """The top entries of each query, best first: their indices, their retrieval scores and all their scores.

    K is the number kept, or the number of entries if smaller.
    """

    entry_QK: NDArray[np.int64]
    retrieval_QK: NDArray[np.float32]
    score_SQK: NDArray[np.float32]


class TopEntries:
    """The best `kept` entries of each query so far, with `scores` scores each."""

    def __init__(self, queries: int, kept: int, scores: int) -> None:
        self._kept = kept
        self._entry_QK = torch.full((queries, kept), NONE)
        self._retrieval_QK = torch.full((queries, kept), -torch.inf)
        self._score_SQK = torch.full((scores, queries, kept), torch.nan)

    def update(self, queries: Tensor, entries: Tensor, retrieval_QE: Tensor, score_SQE: Tensor) -> None:
        """Take entries with their retrieval scores and the scores to keep. Entries are [E], or [Q, E] if each query has others."""
        entry_QE = entries.expand(retrieval_QE.shape)
        # An entry below all that are kept cannot enter, so after the first blocks few entries of few queries are left to sort.
        hopeful_QE = retrieval_QE >= self._retrieval_QK[queries, -1:]
        some, most = hopeful_QE.any(dim=1), int(hopeful_QE.sum(dim=1).max())
        if most == 0:
            return
        retrieval_QE, place = retrieval_QE[some].topk(most, dim=1)
        queries, entry_QE = queries[some], entry_QE[some].gather(1, place)
        score_SQE = score_SQE[:, some].gather(2, place.expand(len(score_SQE), -1, -1))
        candidate = torch.cat([self._entry_QK[queries], entry_QE], dim=1)
        retrieval = torch.cat([self._retrieval_QK[queries], retrieval_QE], dim=1)
        # Entries that tie with the last of the best may still win by their index, so they are considered too.
        last_Q1 = retrieval.topk(self._kept, dim=1).values[:, -1:]
        most = int((retrieval >= last_Q1).sum(dim=1).max())
        place = retrieval.topk(most, dim=1).indices
        place = place.gather(1, candidate.gather(1, place).argsort(dim=1))
        place = place.gather(1, retrieval.gather(1, place).argsort(dim=1, descending=True, stable=True))[:, : self._kept]
        scores = torch.cat([self._score_SQK[:, queries], score_SQE], dim=2)
        self._entry_QK[queries] = candidate.gather(1, place)
        self._retrieval_QK[queries] = retrieval.gather(1, place)
        self._score_SQK[:, queries] = scores.gather(2, place.expand(len(scores), -1, -1))

    def shared(self, processes: ProcessGroup) -> "TopEntries":
        """Merge the entries that all processes kept; each process has seen other entries."""
        whole = TopEntries(len(self._entry_QK), self._kept, len(self._score_SQK))
        kept = [processes.gather(tensor) for tensor in (self._entry_QK, self._retrieval_QK)]
        kept += [processes.gather(self._score_SQK) if len(self._score_SQK) else [self._score_SQK] * processes.world_size]
        for entry_QK, retrieval_QK, score_SQK in zip(*kept, strict=True):
            whole.update(torch.arange(len(entry_QK)), entry_QK, retrieval_QK, score_SQK)
        return whole

    def best(self) -> Best:
        """The entries kept. Every query has seen the same number of entries."""
        filled = int((self._entry_QK[0] != NONE).sum())
        kept = (self._entry_QK, self._retrieval_QK, self._score_SQK)
        return Best(*(tensor[..., :filled].numpy() for tensor in kept))
