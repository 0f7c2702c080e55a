"""The optimisers of training: parameter groups, update rules and learning rate schedules.

`adamw` is the default. `bert-adam` is the optimiser that CLIP4Clip and its successors published their figures with.

x is the share of the training that is done: the number of steps taken, divided by the number of all steps.
"""

from collections.abc import Callable, Iterable, Sequence
from math import cos, pi
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, SequentialLR

WARM_UP = 0.1
"""Share of the training over which the learning rate rises."""
BETAS, EPSILON = (0.9, 0.98), 1e-6
"""Of both optimisers."""
CLIP = "clip."
"""Prefix of the names of CLIP's own parameters among the trained ones."""
CLIP_COEFFICIENT = 1e-3
"""The published ratio of CLIP's learning rate, 1e-7, to that of the head, 1e-4."""

Named = Sequence[tuple[str, nn.Parameter]]
"""Parameters with their names."""


def make_optimiser(
    kind: Literal["adamw", "bert-adam"], head: Named, clip: Named, *, lr: float, clip_lr: float | None, weight_decay: float, steps: int
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """The optimiser and its schedule over `steps` steps. The first group holds parameters of the head.

    `head` and `clip` are the trained parameters of the head and of CLIP, `lr` and `clip_lr` their peak learning rates. With frozen CLIP,
    `clip_lr` is None; BertAdam then trains the logit scale, which is CLIP's, at CLIP_COEFFICIENT times `lr`.
    """
    if kind == "bert-adam":
        groups = bert_adam_groups([*head, *clip], lr, CLIP_COEFFICIENT * lr if clip_lr is None else clip_lr, weight_decay)
        optimiser: torch.optim.Optimizer = BertAdam(groups)
        return optimiser, bert_adam_schedule(optimiser, steps)
    groups = _adamw_groups(head, lr, weight_decay)
    if clip_lr is not None:
        groups += _adamw_groups(clip, clip_lr, weight_decay)
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPSILON, fused=True)
    return optimiser, _adamw_schedule(optimiser, steps)


def bert_adam_groups(named: Iterable[tuple[str, nn.Parameter]], lr: float, clip_lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """The parameter groups of BertAdam. The name of a parameter decides both its learning rate and its weight decay:

    =========================================  =============
    a name that                                learning rate
    =========================================  =============
    contains ``clip.`` or is ``logit_scale``   `clip_lr`
    is any other                               `lr`
    =========================================  =============

    =========================================  ==============
    a name that                                weight decay
    =========================================  ==============
    contains ``bias`` or ``LayerNorm.weight``  0
    is any other                               `weight_decay`
    =========================================  ==============

    Case matters. With --finetune the names of CLIP's parameters begin with ``clip.``; the logit scale is the parameter of CLIP that a head
    keeps. The published rule spares norms called LayerNorm and no others. Ours have other names, so their weights decay: ``ln_1`` and
    ``ln_2`` of CLIP and of the temporal encoder, as published, and by the same rule ``norm_in``, ``norm_pooled`` and ``norm_out`` of
    xpool, which was published with another optimiser. The logit scale, position tables and matrices decay too.

    The groups, in order: at `lr` with and without decay, then at `clip_lr` with and without decay.
    """
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": rate, "weight_decay": decay} for rate in (lr, clip_lr) for decay in (weight_decay, 0.0)
    ]
    for name, parameter in named:
        of_clip = CLIP in name or name == "logit_scale"
        spared = "bias" in name or "LayerNorm.weight" in name
        groups[2 * of_clip + spared]["params"].append(parameter)
    return groups


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, with a clip per tensor and decoupled weight decay, as BERT was trained and CLIP4Clip after it.

    For each tensor w with gradient g, at the learning rate `lr` and with the decay `weight_decay` of its group::

        g <- g min(1, 1 / (|g| + 1e-6))         each tensor by itself
        m <- 0.9 m + 0.1 g
        v <- 0.98 v + 0.02 g^2
        w <- w - lr (m / (sqrt(v) + 1e-6) + weight_decay w)

    m and v start at 0. Gradients are left unchanged. Parameters without a gradient are skipped.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """`groups`: dicts with `params`, `lr` and `weight_decay`, as from `bert_adam_groups`."""
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters. `closure`, if given, computes the loss with its gradients first; returns that loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])
        return loss

    def _update(self, parameter: nn.Parameter, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        # As a tensor, because a GPU would have to be waited for.
        clipped = gradient * (1 / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1.0)
        mean.mul_(BETAS[0]).add_(clipped, alpha=1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(clipped, clipped, value=1 - BETAS[1])
        change = mean / square.sqrt().add_(EPSILON)
        parameter.add_(change.add_(parameter, alpha=weight_decay), alpha=-lr)


def bert_adam_schedule(optimiser: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Sets each group's learning rate to its peak times `bert_adam_rate`. Call it after every step of the optimiser."""
    return LambdaLR(optimiser, lambda step: bert_adam_rate(step / max(1, steps)))


def bert_adam_rate(x: float) -> float:
    """The factor of the peak learning rate of BertAdam after the share x of the training.

    It is x / WARM_UP during the warm-up, so that the first step changes nothing, and then (1 + cos(pi x)) / 2, which starts at 0.976.

    >>> bert_adam_rate(0.0), bert_adam_rate(0.05), bert_adam_rate(0.5)
    (0.0, 0.5, 0.5)
    """
    return x / WARM_UP if x < WARM_UP else (1 + cos(pi * x)) / 2


def _adamw_groups(named: Named, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and the logit scale do not."""
    matrices, others = [p for _, p in named if p.ndim >= 2], [p for _, p in named if p.ndim < 2]
    return [{"params": matrices, "lr": lr, "weight_decay": weight_decay}, {"params": others, "lr": lr, "weight_decay": 0.0}]


def _adamw_schedule(optimiser: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Linear warm-up over the first 10% of the steps, then cosine decay to zero."""
    warm_up = max(1, round(WARM_UP * steps))
    rise = LambdaLR(optimiser, lambda step: (step + 1) / warm_up)
    fall = CosineAnnealingLR(optimiser, T_max=max(1, steps - warm_up))
    return SequentialLR(optimiser, [rise, fall], milestones=[warm_up])
