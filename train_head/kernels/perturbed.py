"""The choice of the highest scores under noise, which has a gradient (Berthet et al. 2020, "Learning with Differentiable Perturbed
Optimizers"; of the highest K: Cordonnier et al. 2021, "Differentiable Patch Selection for Image Recognition").

With Y(s) the K rows that mark the places of the K highest scores in ascending order, and e_1 ... e_DRAWS standard normal,

    forward     y = 1 / DRAWS sum_n Y(s + SIGMA e_n)
    backward    dL/ds = 1 / (SIGMA DRAWS) sum_n <dL/dy, Y(s + SIGMA e_n)> e_n

which estimates the gradient of the expected Y. The noise is that of `train_head.kernels.noise`, so that it depends on a key alone; the
backward pass draws it again rather than keep it.

Shape suffixes: R rows of scores, N draws, M scores of a row, K chosen.
"""

from typing import Any

import torch
from torch import Tensor

from train_head.kernels.noise import noise

SIGMA = 0.05
"""Deviation of the noise: that of TS2-Net."""
DRAWS = 500
"""Draws that are averaged: as many as TS2-Net's."""
_NUMBERS_AT_ONCE = 2**22
"""Noise in memory at a time."""


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
        choices, places = [], []
        for score, key in _pieces(score_RM, key_R, draws=draws):
            place_RNK = (score[:, None] + sigma * _draw(key, draws, score)).topk(count, dim=-1).indices.sort(dim=-1).values
            counted_RKM = score.new_zeros(len(score), count, score.shape[1])
            # Counts are exact in any order.
            counted_RKM.scatter_add_(2, place_RNK.transpose(1, 2), torch.ones_like(counted_RKM[:1, :1, :1]).expand_as(place_RNK).mT)
            choices.append(counted_RKM / draws)
            places.append(place_RNK.to(torch.int16))
        ctx.save_for_backward(score_RM, key_R, torch.cat(places))
        ctx.sigma, ctx.draws = sigma, draws
        return torch.cat(choices)

    @staticmethod
    def backward(ctx: Any, gradient_RKM: Tensor) -> tuple[Tensor | None, ...]:
        score_RM, key_R, place_RNK = ctx.saved_tensors
        found = []
        for gradient, score, key, place in _pieces(gradient_RKM, score_RM, key_R, place_RNK, draws=ctx.draws):
            weight_RN = gradient.gather(2, place.long().mT).sum(dim=1)
            found.append((weight_RN[:, None] @ _draw(key, ctx.draws, score))[:, 0] / (ctx.sigma * ctx.draws))
        return torch.cat(found), None, None, None, None


def _pieces(*tensors: Tensor, draws: int) -> list[tuple[Tensor, ...]]:
    """The tensors, all of R rows, in pieces of few rows."""
    rows = max(1, _NUMBERS_AT_ONCE // (draws * tensors[0].shape[-1]))
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def _draw(key_R: Tensor, draws: int, score_RM: Tensor) -> Tensor:
    """The noise [R, N, M] of these keys."""
    return noise(key_R, 0, draws * score_RM.shape[1]).view(len(key_R), draws, -1).to(score_RM.dtype)
