"""Fuses matrices of scores block by block and ranks by the result. Memory does not grow with the matrices, only with their sides.

    sum   F_ab = sum_m w_m n(S_m)_ab                n: z-score, min-max, softmax or nothing
    rrf   F_ab = sum_m w_m / (k + rank_m(a, b))     Cormack et al. 2009, "Reciprocal Rank Fusion Outperforms Condorcet and Individual
                                                    Rank Learning Methods"; ties get their expected rank

Text to video, a text ranks the videos. Video to text, a video ranks the videos by their best captions, as in data/metrics.py: rrf takes
ranks among these, and sum fuses the scores of all captions before it takes the best.

Shape suffixes: A texts, B videos, G videos that have texts, Q queries, N entries that a query ranks.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.progress import Progress
from data.metrics import Ranks
from evaluate.fuse.aligned import AlignedMatrix, Alignment

Array = NDArray[np.float64]
Normalization = Literal["z-score", "min-max", "softmax", "none"]
BLOCK_BYTES = 2**24
"""Bytes of one block of float64 scores. A few blocks are in memory at a time."""


@dataclass(frozen=True)
class Rule:
    """How scores become fused scores."""

    method: Literal["sum", "rrf"]
    weights: tuple[float, ...]
    """One per matrix."""
    normalization: Normalization = "z-score"
    k: float = 60.0


@dataclass(frozen=True)
class _Scale:
    """Subtract `centre` and divide by `spread`: the normalisation of one matrix."""

    centre: float = 0.0
    spread: float = 1.0


def fused_ranks(alignment: Alignment, rule: Rule, quiet: bool) -> tuple[Ranks, Ranks]:
    """The ranks of the answers by the fused scores, text to video first.

    Raises UserError if a score is not finite, or a file cannot be read.
    """
    texts, videos = len(alignment.answers), len(alignment.videos)
    row_blocks, column_blocks = _blocks(texts, videos), _blocks(videos, texts)
    matrices = alignment.matrices
    with ExitStack() as stack, Progress("fusing", len(row_blocks) * (1 + len(matrices)) + len(column_blocks), "blocks", quiet) as progress:
        opened = [stack.enter_context(matrix.opened()) for matrix in matrices]
        scales = []
        for matrix in opened:
            scales.append(_scale(matrix, row_blocks, rule.normalization, progress))
        best_A, worst_A = np.empty(texts, dtype=np.int64), np.empty(texts, dtype=np.int64)
        for rows in row_blocks:
            fused_QN = _fused(rule, scales, [matrix.block(rows) for matrix in opened], None)
            best_A[rows], worst_A[rows] = _ranks(fused_QN, alignment.answers[rows])
            progress.update()
        asking = np.flatnonzero(np.bincount(alignment.answers, minlength=videos))
        best_B, worst_B = np.empty(videos, dtype=np.int64), np.empty(videos, dtype=np.int64)
        # Sorted by video, so that the texts of a video are neighbours.
        order, first_G = alignment.by_video()
        for columns in column_blocks:
            asked = columns[np.isin(columns, asking)]
            if len(asked):
                blocks = [np.ascontiguousarray(matrix.block(order, asked, BLOCK_BYTES).T) for matrix in opened]
                best_B[asked], worst_B[asked] = _ranks(_fused(rule, scales, blocks, first_G), np.searchsorted(asking, asked))
            progress.update()
    return Ranks(np.arange(texts), best_A, worst_A), Ranks(asking, best_B[asking], worst_B[asking])


def _fused(rule: Rule, scales: Sequence[_Scale], blocks: Sequence[Array], first_G: NDArray[np.int64] | None) -> Array:
    """The fused scores [Q, N] of one direction, from each matrix's scores of whole queries.

    first_G: where the texts of each video begin along the second axis, if the best of them counts as one entry.
    """

    def entries(score_QN: Array) -> Array:
        return score_QN if first_G is None else np.maximum.reduceat(score_QN, first_G, axis=1)

    if rule.method == "rrf":
        terms = np.stack([w / (rule.k + _expected_ranks(entries(block))) for w, block in zip(rule.weights, blocks, strict=True)])
        # Sorted before they are added: equal terms then give equal sums, whichever matrices they come from.
        terms.sort(axis=0)
        return np.asarray(np.add.reduce(terms, axis=0))
    fused_QN = np.zeros_like(blocks[0])
    for weight, scale, block in zip(rule.weights, scales, blocks, strict=True):
        fused_QN += weight * (_softmax(block) if rule.normalization == "softmax" else (block - scale.centre) / scale.spread)
    return entries(fused_QN)


def _ranks(score_QN: Array, own_Q: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best and the worst rank, from 1, of each query's own entry among its ties."""
    own_Q1 = np.take_along_axis(score_QN, own_Q[:, None], axis=1)
    higher_Q = (score_QN > own_Q1).sum(axis=1)
    return higher_Q + 1, higher_Q + (score_QN == own_Q1).sum(axis=1)


def _expected_ranks(score_QN: Array) -> Array:
    """The rank of every entry, from 1; entries that tie share the mean of their ranks."""
    from scipy.stats import rankdata  # takes a second to import

    return np.asarray(rankdata(-score_QN, method="average", axis=1), dtype=np.float64)


def _softmax(score_QN: Array) -> Array:
    exp_QN = np.exp(score_QN - score_QN.max(axis=1, keepdims=True))
    return np.asarray(exp_QN / exp_QN.sum(axis=1, keepdims=True))


def _scale(matrix: AlignedMatrix, row_blocks: Sequence[NDArray[np.int64]], normalization: Normalization, progress: Progress) -> _Scale:
    """Read the matrix once, check that all scores are finite, and return its normalisation. A constant matrix adds nothing to any rank."""
    count, mean, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    for rows in row_blocks:
        block: Any = matrix.block(rows)
        if not np.isfinite(block).all():
            a, b = np.argwhere(~np.isfinite(block))[0]
            pair = f"text {matrix.row_A[rows[a]]} and video {matrix.matrix.videos[matrix.column_B[b]]}"
            raise UserError(f"{matrix.matrix.path}: the score of {pair} is {block[a, b]}: save the scores again")
        # Chan et al. 1983: sums of squared differences from means merge without cancellation.
        total = count + block.size
        difference = block.mean() - mean
        squares += float(((block - block.mean()) ** 2).sum()) + difference**2 * count * block.size / total
        mean += difference * block.size / total
        count, low, high = total, min(low, block.min()), max(high, block.max())
        progress.update()
    if normalization == "z-score":
        return _Scale(float(mean), float(np.sqrt(squares / count)) or 1.0)
    return _Scale(float(low), float(high - low) or 1.0) if normalization == "min-max" else _Scale()


def _blocks(queries: int, entries: int) -> list[NDArray[np.int64]]:
    """The queries, in blocks of about BLOCK_BYTES."""
    size = max(1, BLOCK_BYTES // (8 * entries))
    return [np.arange(first, min(first + size, queries)) for first in range(0, queries, size)]
