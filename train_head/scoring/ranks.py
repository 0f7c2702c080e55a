"""The ranks of two stages: re-ranked entries first, by their new scores, and behind them the others in the order of the first stage.

A query's list, where the first stage ordered a b c d e and the second re-ranks the first three:

    candidates       a b c          second stage    c 9.1   a 7.0   b 7.0
    rank             c: 1   a, b: 2 or 3   d: 4   e: 5

In video to text, the entries of the list are texts, and a video's texts count once, at the place of the best of them.

Shape suffixes: Q queries, K candidates, E groups: the entries of one video that are among the candidates of one query.
"""

import numpy as np
from numpy.typing import NDArray

from data.metrics import Ranks


def two_stage_ranks(first: Ranks, owner_QK: NDArray[np.int64], score_QK: NDArray[np.float32], own_Q: NDArray[np.int64]) -> Ranks:
    """The ranks after re-ranking.

    first: the ranks of the same queries by the first stage.
    owner_QK: the video of every candidate: itself, or that of a text.
    score_QK: the scores of the second stage.
    own_Q: the video that answers each query, or that the query is.

    If the answer is a candidate, its rank counts the other videos among the candidates by their best scores; ties leave it open. If it is
    not, all videos of candidates come before it, and the order of the first stage decides among the others.
    """
    queries, k = owner_QK.shape
    order_QK = np.argsort(owner_QK, axis=1, kind="stable")
    owner_N = np.take_along_axis(owner_QK, order_QK, axis=1).ravel()
    score_N = np.take_along_axis(score_QK, order_QK, axis=1).ravel()
    query_N = np.repeat(np.arange(queries), k)
    first_E = np.flatnonzero((np.diff(owner_N, prepend=-1) != 0) | (np.diff(query_N, prepend=-1) != 0))
    best_E, owner_E, query_E = np.maximum.reduceat(score_N, first_E), owner_N[first_E], query_N[first_E]
    is_own_E = owner_E == own_Q[query_E]
    score_Q, there_Q = np.zeros(queries, dtype=score_QK.dtype), np.zeros(queries, dtype=bool)
    score_Q[query_E[is_own_E]], there_Q[query_E[is_own_E]] = best_E[is_own_E], True
    higher_Q, as_high_Q, groups_Q = (
        np.bincount(query_E[counted_E], minlength=queries)
        for counted_E in (best_E > score_Q[query_E], best_E >= score_Q[query_E], np.ones(len(query_E), dtype=bool))
    )
    # Entries of the first stage that tie with an answer behind the candidates may be candidates themselves.
    best_Q = np.where(there_Q, 1 + higher_Q, np.maximum(first.best_Q, 1 + groups_Q))
    return Ranks(first.query_Q, best_Q, np.where(there_Q, as_high_Q, first.worst_Q))


def answers_there(owner_QK: NDArray[np.int64], own_Q: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the answer of each query is among its candidates [Q]. For the arguments see `two_stage_ranks`."""
    there_Q: NDArray[np.bool_] = (owner_QK == own_Q[:, None]).any(axis=1)
    return there_Q
