"""The two losses of GLCCL: symmetric contrast over a batch, and the global-local contrastive consistency (CSC).

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from train_head.masking import FAR_BELOW

CscData = Literal["both", "positive", "negative"]


def contrastive_loss(score_AB: Tensor, left_out_AB: Tensor | None = None) -> Tensor:
    """Mean cross entropy of both directions; text a belongs to video a, and the logit scale is in the scores already.

    `left_out_AB`: True at pairs off the diagonal that are neither matching nor others, such as another caption of the same video.
    """
    if left_out_AB is not None:
        score_AB = score_AB.masked_fill(left_out_AB, FAR_BELOW)
    target_A = torch.arange(len(score_AB), device=score_AB.device)
    return (cross_entropy(score_AB, target_A) + cross_entropy(score_AB.T, target_A)) / 2


def csc_loss(scores_SAB: Tensor, same_AB: Tensor | None = None, data: CscData = "both", *, left_out_AB: Tensor | None = None) -> Tensor:
    """CSC: mean variance of the scores on matching pairs over their mean variance on the other pairs; a scalar.

    The variance is unbiased, over the S scores of a pair. It is small on matching pairs where the scores agree and large on the others
    where they do not. `same_AB` is True at matching pairs, None means the diagonal. `data` keeps the value and chooses where
    the gradient goes: "both", "positive" (through the matching pairs alone) or "negative" (through the others alone); the last two
    are our reading of the paper's ablation, which prints no formula. Pairs where `left_out_AB` is True are neither. Where the other pairs
    have no variance at all, or all are left out, the loss is 0.
    Raises ValueError for fewer than two scores, no matching pair or no other pair. Source: GLCCL (arXiv 2605.17959), CSC loss.
    """
    scores, a, b = scores_SAB.shape
    same = torch.eye(a, b, dtype=torch.bool, device=scores_SAB.device) if same_AB is None else same_AB.bool()
    if scores < 2:
        raise ValueError("CSC compares several scores of a pair; this head gives one")
    if not same.any() or same.all():
        raise ValueError("CSC needs matching pairs and others: a batch of at least 2")
    # As Tensor.var gives it, which is slow over the first of three dimensions.
    variance_AB = (scores_SAB - scores_SAB.mean(dim=0)).square().sum(dim=0) / (scores - 1)
    other = ~same if left_out_AB is None else ~(same | left_out_AB)
    matching = variance_AB[same].mean()
    others = variance_AB[other].sum() / other.sum().clamp(min=1)
    if data == "positive":
        others = others.detach()
    elif data == "negative":
        matching = matching.detach()
    varies = others > 0
    return torch.where(varies, matching / torch.where(varies, others, torch.ones_like(others)), torch.zeros_like(matching))
