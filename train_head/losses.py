"""The two losses of GLCCL: symmetric contrastive loss over a batch, and global-local contrastive consistency (CSC).

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from train_head.masking import FAR_BELOW

LOSSES = ("loss", "contrastive", "csc")
"""Names of the losses of every head, as columns of log.csv. Those of `Head.extra_losses` follow them, then CDCR if it has a weight."""
CDCR = "cdcr"
"""Name of the channel decorrelation."""

CscData = Literal["both", "positive", "negative"]


def contrastive_loss(score_AB: Tensor, left_out_AB: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE: the mean of the text-to-video and video-to-text cross entropies; a scalar.

    `score_AB` includes the logit scale, and text a belongs to video a. `left_out_AB` is True at off-diagonal pairs to exclude from the
    negatives, such as another caption of the same video.
    """
    if left_out_AB is not None:
        score_AB = score_AB.masked_fill(left_out_AB, FAR_BELOW)
    target_A = torch.arange(len(score_AB), device=score_AB.device)
    return (cross_entropy(score_AB, target_A) + cross_entropy(score_AB.T, target_A)) / 2


def csc_loss(scores_SAB: Tensor, same_AB: Tensor | None = None, data: CscData = "both", *, left_out_AB: Tensor | None = None) -> Tensor:
    """CSC: the variance of a pair's S scores, averaged over matching pairs, divided by its average over the other pairs; a scalar.

        csc = mean[a matches b] var_S(scores[:, a, b]) / mean[a does not match b] var_S(scores[:, a, b])

    The variance is unbiased. The loss falls as the scores agree on matching pairs and disagree on the others. It is 0 if the other pairs
    have no variance, or all of them are left out.

    `same_AB` is True at matching pairs; None means the diagonal. Pairs where `left_out_AB` is True count as neither. `data` does not change
    the value, only the pairs that receive a gradient: "both", "positive" (matching pairs) or "negative" (the others). The last two are our
    reading of the paper's ablation, which prints no formula.

    Raises ValueError for fewer than two scores, no matching pair or no other pair. Source: GLCCL (arXiv 2605.17959), CSC loss.
    """
    scores, a, b = scores_SAB.shape
    same = torch.eye(a, b, dtype=torch.bool, device=scores_SAB.device) if same_AB is None else same_AB.bool()
    # Without looking at the diagonal, which would wait for a GPU.
    lacking = a * b < 2 if same_AB is None else not same.any() or bool(same.all())
    if scores < 2:
        raise ValueError("CSC compares several scores of a pair, but this head has one")
    if lacking:
        raise ValueError("CSC needs matching pairs and other pairs: use a batch of at least 2")
    # Equal to scores_SAB.var(dim=0), which is slow over the first of three dimensions.
    variance_AB = (scores_SAB - scores_SAB.mean(dim=0)).square().sum(dim=0) / (scores - 1)
    other = ~same if left_out_AB is None else ~(same | left_out_AB)
    if variance_AB.device.type == "cpu":
        matching, others = variance_AB[same].mean(), variance_AB[other].sum()
    else:
        # Selecting would wait for the number of pairs.
        matching, others = (variance_AB.masked_fill(~chosen, 0.0).sum() for chosen in (same, other))
        matching = matching / same.sum()
    others = others / other.sum().clamp(min=1)
    if data == "positive":
        others = others.detach()
    elif data == "negative":
        matching = matching.detach()
    varies = others > 0
    return torch.where(varies, matching / torch.where(varies, others, torch.ones_like(others)), torch.zeros_like(matching))
