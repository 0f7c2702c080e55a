"""DRL's channel decorrelation (CDCR): a loss on the features of texts and of the videos that belong to them.

Channel c of a text should agree with channel c of its video, and tell nothing about the other channels (Wang et al. 2022, "Disentangled
Representation Learning for Text-Video Retrieval", arXiv 2203.07111). With C [D, D] the correlations of the channels of texts (rows) with
the channels of videos (columns):

    loss = alpha_1 sum_c (C_cc - 1)^2 + alpha_2 sum_{c != d} C_cd^2

`vector_correlation` computes C from one feature of each text and video, `token_correlation` from words and frames.

Shape suffixes: N pairs of a text and its video, L words of a text, F frames of a video, R real words of all texts or rows of any kind,
C real frames of all videos, D joint dimension.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from data.compute.staging import to_device
from train_head.batches import EncodedFrames, TextBatch
from train_head.kernels.plain import inverse_norm
from train_head.masking import FAR_BELOW

Alphas = tuple[float, float]
"""The factors of the loss for the diagonal and for all other entries."""
ALPHAS: Alphas = (1.0, 0.06)
"""The factors that DRL's code has by default."""
_CONSTANT = 1e-5
"""A channel whose standard deviation is at most this share of its mean is constant but for rounding."""


class WordRows(NamedTuple):
    """Where the words of each text are among the rows of a batch [N, L], and which of them are real [N, L]. Texts end with repeats."""

    row_NL: Tensor
    real_NL: Tensor


class Matches(NamedTuple):
    """Normalised features of all real words and the frame that each matches best, and of all real frames and their best words."""

    word_RD: Tensor
    best_frame_RD: Tensor
    frame_CD: Tensor
    best_word_CD: Tensor


def channel_loss(correlation_DD: Tensor, alphas: Alphas) -> Tensor:
    """The loss of the correlations C, a scalar."""
    diagonal_D = correlation_DD.diagonal()
    others = correlation_DD.square().sum() - diagonal_D.square().sum()
    return alphas[0] * (diagonal_D - 1).square().sum() + alphas[1] * others


def standardised(x_RD: Tensor) -> Tensor:
    """Each channel minus its mean over the rows, divided by its standard deviation (unbiased). At least two rows.

    Zero, without a gradient, where a channel is constant but for rounding: DRL's code divides by zero there.
    """
    assert len(x_RD) > 1
    mean_D = x_RD.mean(dim=0)
    centred_RD = x_RD - mean_D
    variance_D = centred_RD.square().sum(dim=0) / (len(x_RD) - 1)
    return centred_RD * inverse_norm(variance_D, (_CONSTANT * mean_D.detach()).square())


def vector_correlation(text_ND: Tensor, video_ND: Tensor) -> Tensor:
    """C [D, D] of one feature for each text and one for its video."""
    return standardised(text_ND).T @ standardised(video_ND) / len(text_ND)


def token_correlation(matches: Matches, word_weight_R: Tensor | None = None, frame_weight_C: Tensor | None = None) -> Tensor:
    """C [D, D] of words and frames: the mean of the correlation over words with that over frames.

    Weights are factors of each word and frame. Without them, each word counts 1 / R and each frame 1 / C.
    """
    word_RD, frame_CD = standardised(matches.word_RD), standardised(matches.frame_CD)
    word_RD = word_RD / len(word_RD) if word_weight_R is None else word_RD * word_weight_R[:, None]
    frame_CD = frame_CD / len(frame_CD) if frame_weight_C is None else frame_CD * frame_weight_C[:, None]
    return torch.addmm(word_RD.T @ standardised(matches.best_frame_RD), frame_CD.T, standardised(matches.best_word_CD)) / 2


def word_rows(texts: TextBatch) -> WordRows:
    """Where the words of each text are among the rows of the batch."""
    real_N = texts.length_A if texts.real_A is None else texts.real_A
    first_N = texts.length_A.cumsum(dim=0) - texts.length_A
    position_L = torch.arange(int(texts.length_A.max()))
    row_NL = first_N[:, None] + torch.minimum(position_L, texts.length_A[:, None] - 1)
    device = texts.word_RD.device
    return WordRows(to_device(row_NL, device), to_device(position_L < real_N[:, None], device))


def best_matches(texts: TextBatch, videos: EncodedFrames, *, padding: bool) -> Matches:
    """Match every real word of text i to the frame of video i with the highest cosine, and every real frame to a word.

    The first of several equal cosines wins. The choice has no gradient, the chosen features have. Padding is never chosen; with `padding`,
    as in DRL's code, its cosines are 0 and it can be.
    """
    rows = word_rows(texts)
    unit_word_RD, unit_frame_NFD = (x * inverse_norm(x.square().sum(dim=-1, keepdim=True)) for x in (texts.word_RD, videos.frame_BFD))
    with torch.no_grad():
        real_NLF = rows.real_NL[:, :, None] & videos.mask_BF[:, None]
        cosine_NLF = unit_word_RD[rows.row_NL] @ unit_frame_NFD.transpose(1, 2)
        cosine_NLF = cosine_NLF.masked_fill(~real_NLF, 0.0 if padding else FAR_BELOW)
        frame_NL, word_NF = cosine_NLF.argmax(dim=2), cosine_NLF.argmax(dim=1)
        first_frame_N = torch.arange(len(frame_NL), device=frame_NL.device) * videos.mask_BF.shape[1]
        best_frame_R = (first_frame_N[:, None] + frame_NL)[rows.real_NL]
        best_word_C = rows.row_NL.gather(1, word_NF)[videos.mask_BF]
        word_R, frame_C = rows.row_NL[rows.real_NL], videos.mask_BF.flatten().nonzero()[:, 0]
    unit_frame_RD = unit_frame_NFD.flatten(0, 1)
    return Matches(unit_word_RD[word_R], unit_frame_RD[best_frame_R], unit_frame_RD[frame_C], unit_word_RD[best_word_C])
