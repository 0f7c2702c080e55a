"""The choice of the highest scores under noise, which has a gradient (Berthet et al. 2020, "Learning with Differentiable Perturbed
Optimizers"; of the highest K: Cordonnier et al. 2021, "Differentiable Patch Selection for Image Recognition").

With Y(s) the K rows that mark the places of the K highest scores in ascending order, and e_1 ... e_DRAWS standard normal,

    forward     y = 1 / DRAWS sum_n Y(s + SIGMA e_n)
    backward    dL/ds = 1 / (SIGMA DRAWS) sum_n <dL/dy, Y(s + SIGMA e_n)> e_n

which estimates the gradient of the expected Y. The noise is that of `train_head.kernels.noise`, so that it depends on a key alone; the
backward pass makes noise and choices again rather than keep them. The compiled loops are for float32 on a CPU; `_plain` is the same in
torch, for CUDA and float64.

Shape suffixes: R rows of scores, N draws, M scores of a row, K chosen, X any dimensions.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from train_head.kernels.loops import compilable, compiled
from train_head.kernels.noise import PARTS, draw_noise, noise, quantiles, words_of
from train_head.kernels.threads import parallel

SIGMA = 0.05
"""Deviation of the noise: that of TS2-Net."""
DRAWS = 500
"""Draws that are averaged: as many as TS2-Net's."""
_NUMBERS_AT_ONCE = 2**22
"""Noise in memory at a time, where it is made in torch."""
_ROWS_AT_ONCE = 16
"""Rows that a thread takes at a time."""
_FAR_BELOW = np.float32(-np.inf)


def chosen_places(score_XM: Tensor, count: int) -> Tensor:
    """The places [..., K] of the `count` highest scores, in ascending order; of equal scores the first count."""
    return score_XM.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(dim=-1).values


def perturbed_choice(score_RM: Tensor, key_R: Tensor, count: int, sigma: float = SIGMA, draws: int = DRAWS) -> Tensor:
    """The averaged choices y [R, K, M]: how often place m was the k-th of the chosen. Each of the K = `count` rows sums to 1.

    key_R: int64, what the noise of a row depends on.
    """
    choice_RKM: Tensor = _Perturbed.apply(score_RM, key_R, count, sigma, draws)
    return choice_RKM


class _Perturbed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score_RM: Tensor, key_R: Tensor, count: int, sigma: float, draws: int) -> Tensor:
        ctx.save_for_backward(score_RM, key_R)
        ctx.sigma, ctx.draws = sigma, draws
        counted_RKM = score_RM.new_zeros(len(score_RM), count, score_RM.shape[1])
        if compilable(score_RM):
            _in_threads(count_choices, score_RM, key_R, counted_RKM, sigma, draws)
        else:
            for score, key, counted in _pieces(score_RM, key_R, counted_RKM, draws=draws):
                place_RKN = _plain(score, key, count, sigma, draws)[0].mT
                # Counts are exact in any order.
                counted.scatter_add_(2, place_RKN, counted.new_ones(()).expand_as(place_RKN))
        return counted_RKM / draws

    @staticmethod
    def backward(ctx: Any, gradient_RKM: Tensor) -> tuple[Tensor | None, ...]:
        score_RM, key_R = ctx.saved_tensors
        found_RM = torch.zeros_like(score_RM)
        if compilable(score_RM):
            _in_threads(weigh_noise, score_RM, key_R, found_RM, ctx.sigma, ctx.draws, gradient_RKM.contiguous())
        else:
            for gradient, score, key, found in _pieces(gradient_RKM, score_RM, key_R, found_RM, draws=ctx.draws):
                place_RNK, noise_RNM = _plain(score, key, gradient.shape[1], ctx.sigma, ctx.draws)
                weight_RN = gradient.gather(2, place_RNK.mT).sum(dim=1)
                found.copy_((weight_RN[:, None] @ noise_RNM)[:, 0])
        return found_RM / (ctx.sigma * ctx.draws), None, None, None, None


def _plain(score_RM: Tensor, key_R: Tensor, count: int, sigma: float, draws: int) -> tuple[Tensor, Tensor]:
    """The choices [R, N, K] and the noise [R, N, M]."""
    noise_RNM = noise(key_R, 0, draws * score_RM.shape[1]).view(len(key_R), draws, -1).to(score_RM.dtype)
    return (score_RM[:, None] + sigma * noise_RNM).topk(count, dim=-1).indices.sort(dim=-1).values, noise_RNM


def _pieces(*tensors: Tensor, draws: int) -> list[tuple[Tensor, ...]]:
    """Views of the tensors, all of R rows, in pieces of few rows."""
    rows = max(1, _NUMBERS_AT_ONCE // (draws * tensors[0].shape[-1]))
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def _in_threads(loop: Any, score_RM: Tensor, key_R: Tensor, out: Tensor, sigma: float, draws: int, *given: Tensor) -> None:
    """A compiled loop over all rows."""
    table, numbers = quantiles().numpy(), PARTS * words_of(draws * score_RM.shape[1])
    jobs = list(
        zip(*(x.detach().contiguous().split(_ROWS_AT_ONCE) for x in (score_RM, key_R, *given)), out.split(_ROWS_AT_ONCE), strict=True)
    )

    def work(job: tuple[Tensor, ...], scratch: Any) -> None:
        score, key, *rest = (x.numpy() for x in job)
        loop(score, key.view(np.uint64), np.float32(sigma), draws, table, scratch, *rest)

    parallel(torch.get_num_threads(), work, jobs, lambda: np.empty(numbers, dtype=np.float32))


@compiled
def _choose(score_M: Any, noise: Any, start: int, sigma: Any, best_K: Any, place_K: Any) -> None:
    """Write the places of the highest scores under the noise from `start` on, in ascending order."""
    count = len(place_K)
    best_K[:] = _FAR_BELOW
    for m in range(len(score_M)):
        x = score_M[m] + sigma * noise[start + m]
        if x > best_K[count - 1]:
            k = count - 1
            while k > 0 and x > best_K[k - 1]:
                best_K[k], place_K[k] = best_K[k - 1], place_K[k - 1]
                k -= 1
            best_K[k], place_K[k] = x, m
    for i in range(1, count):
        k, place = i, place_K[i]
        while k > 0 and place < place_K[k - 1]:
            place_K[k] = place_K[k - 1]
            k -= 1
        place_K[k] = place


@compiled
def count_choices(score_RM: Any, key_R: Any, sigma: Any, draws: int, table: Any, scratch: Any, counted_RKM: Any) -> None:
    """Count how often each place is the k-th of the chosen."""
    places, count = score_RM.shape[1], counted_RKM.shape[1]
    best_K, place_K = np.empty(count, dtype=np.float32), np.zeros(count, dtype=np.int64)
    for r in range(len(score_RM)):
        draw_noise(key_R[r], 0, table, len(scratch) // 4, scratch)
        for n in range(draws):
            _choose(score_RM[r], scratch, n * places, sigma, best_K, place_K)
            for k in range(count):
                counted_RKM[r, k, place_K[k]] += np.float32(1)


@compiled
def weigh_noise(score_RM: Any, key_R: Any, sigma: Any, draws: int, table: Any, scratch: Any, gradient_RKM: Any, found_RM: Any) -> None:
    """Add up the noise of all draws, each times the gradient at the places that it chooses."""
    places, count = score_RM.shape[1], gradient_RKM.shape[1]
    best_K, place_K = np.empty(count, dtype=np.float32), np.zeros(count, dtype=np.int64)
    for r in range(len(score_RM)):
        draw_noise(key_R[r], 0, table, len(scratch) // 4, scratch)
        for n in range(draws):
            _choose(score_RM[r], scratch, n * places, sigma, best_K, place_K)
            weight = np.float32(0)
            for k in range(count):
                weight += gradient_RKM[r, k, place_K[k]]
            for m in range(places):
                found_RM[r, m] += weight * scratch[n * places + m]
