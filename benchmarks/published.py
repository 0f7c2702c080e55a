"""The baseline of the benchmarks: the four scores computed as the paper's equations state, in padded blocks of 64 x 64 pairs.

It materializes the text-guided frame features [A, B, L, D], as the field's code does. It is exact, differentiable and simple.
Shape suffixes as in train_head/glim.py.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

BLOCK = 64
MASKED = -1e30
"""Defined here rather than imported from `train_head.masking`: a baseline shares no code with what it is compared to."""


def aggregate(x: Tensor, mask: Tensor, matrix_LL: Tensor, kappa: float) -> Tensor:
    """agg(x; P) over the last dimension."""
    weight = (x / kappa).masked_fill(~mask, MASKED).softmax(dim=-1)
    return ((weight @ matrix_LL) * x.masked_fill(~mask, 0)).sum(dim=-1)


def published_block(
    sentence_AD: Tensor,
    word_ALD: Tensor,
    word_mask_AL: Tensor,
    frame_BFD: Tensor,
    frame_mask_BF: Tensor,
    head: Mapping[str, Tensor],
    tau: float = 5.0,
    kappa: float = 0.01,
) -> Tensor:
    """The four scores [4, A, B] of one block, before the logit scale."""
    length = word_ALD.shape[1]
    p = {name: head[name][:length, :length] for name in ("P1", "P2", "P3", "P4", "P5", "P6")}
    unit_sentence_AD, unit_word_ALD = normalize(sentence_AD, dim=-1), normalize(word_ALD, dim=-1)
    mask_A1L, mask_A11L = word_mask_AL[:, None], word_mask_AL[:, None, None]

    alpha_ABF = torch.einsum("ad,bfd->abf", sentence_AD, frame_BFD) / tau
    alpha_ABF = alpha_ABF.masked_fill(~frame_mask_BF, MASKED).softmax(dim=-1)
    video_ABD = normalize((alpha_ABF[:, :, None] @ frame_BFD)[:, :, 0], dim=-1)
    beta_ABLF = torch.einsum("ald,bfd->ablf", word_ALD, frame_BFD) / tau
    beta_ABLF = beta_ABLF.masked_fill(~frame_mask_BF[:, None], MASKED).softmax(dim=-1)
    guided_ABLD = normalize(beta_ABLF @ frame_BFD, dim=-1)

    video_sentence_AB = torch.einsum("ad,abd->ab", unit_sentence_AD @ head["M_g"], video_ABD)
    x_ABL = video_ABD @ unit_word_ALD.transpose(-1, -2)
    video_word_AB = aggregate(x_ABL, mask_A1L, p["P1"], kappa)
    # One product per text over the words of all videos, which avoids a copy of the guided features.
    guided_ARD = guided_ABLD.flatten(1, 2)
    y_ABL = (guided_ARD @ unit_sentence_AD[..., None]).view(guided_ABLD.shape[:3])
    sentence_frame_AB = aggregate(y_ABL, mask_A1L, p["P2"], kappa)
    z_ABLK = (guided_ARD @ (unit_word_ALD @ head["M_l"]).transpose(-1, -2)).unflatten(1, guided_ABLD.shape[1:3])
    z_ABKL = z_ABLK.transpose(-1, -2)
    first_AB = aggregate(aggregate(z_ABKL.transpose(-1, -2), mask_A11L, p["P3"], kappa), mask_A1L, p["P4"], kappa)
    second_AB = aggregate(aggregate(z_ABKL, mask_A11L, p["P5"], kappa), mask_A1L, p["P6"], kappa)
    return torch.stack([video_sentence_AB, video_word_AB, sentence_frame_AB, (first_AB + second_AB) / 2])


@torch.no_grad()
def published_all_pairs(
    sentence_AD: Tensor, word_ALD: Tensor, word_mask_AL: Tensor, frame_BFD: Tensor, frame_mask_BF: Tensor, head: Mapping[str, Tensor]
) -> Tensor:
    """The retrieval score [A, B] of all pairs, block by block."""
    texts, videos = len(sentence_AD), len(frame_BFD)
    score_AB = torch.empty(texts, videos, device=sentence_AD.device)
    for a in range(0, texts, BLOCK):
        rows = slice(a, a + BLOCK)
        for b in range(0, videos, BLOCK):
            columns = slice(b, b + BLOCK)
            block = published_block(sentence_AD[rows], word_ALD[rows], word_mask_AL[rows], frame_BFD[columns], frame_mask_BF[columns], head)
            score_AB[rows, columns] = 100 * block.mean(dim=0)
    return score_AB
