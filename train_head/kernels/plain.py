"""GLIM and the four scores in plain tensor operations: for CUDA and float64, and the reference for the compiled loops.

The paper's text-guided features would be a tensor [texts, videos, words, D]. This file never builds them. It computes every score from dot
products of words with frames, and every norm from the Gram matrix of a video's frames. docs/design/method.md has the equations.

Shape suffixes: A texts, B videos, L words of the longest text (start and end tokens included), K the same words as a second index,
F frames of the longest video, D joint dimension, S the four scores. Norms of guided features cover real frames only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from train_head.masking import FAR_BELOW
from train_head.temperatures import KAPPA, TAU


@dataclass(frozen=True)
class Guides:
    """Texts prepared for scoring against any videos: the text side of all products."""

    sentence_AD: Tensor
    """Raw sentence features, which guide the frames."""
    word_ALD: Tensor
    """Raw word features."""
    unit_sentence_AD: Tensor
    """Normalised sentences, for the sentence-frame score."""
    mapped_sentence_AD: Tensor
    """Normalised sentences times M_g, for the video-sentence score."""
    mapped_word_ALD: Tensor
    """Normalised words times M_l, for the word-frame score."""
    word_norm_inverse_AL: Tensor
    mask_AL: Tensor
    """True at real words."""


@dataclass(frozen=True)
class Frames:
    """Videos prepared for scoring: frames (zero at padding), their Gram matrices, and their mask."""

    frame_BFD: Tensor
    gram_BFF: Tensor
    mask_BF: Tensor
    """True at real frames that are not zero. A zero frame has no direction and counts as padding, unless padding itself counts."""


def inverse_norm(square: Tensor, floor: Tensor | float = 0.0) -> Tensor:
    """1 / sqrt(square) where `square` exceeds `floor`, else 0 with zero gradient.

    The inner `where` keeps 0 away from rsqrt: its infinite slope would turn the gradient of the discarded branch into NaN.
    """
    good = square > floor + 1e-30
    return torch.where(good, torch.rsqrt(torch.where(good, square, torch.ones_like(square))), torch.zeros_like(square))


def prepare_texts(sentence_AD: Tensor, word_ALD: Tensor, mask_AL: Tensor, head: Mapping[str, Tensor] | None) -> Guides:
    """Prepare texts for scoring. Padded words must be finite; they are set to zero here."""
    word_ALD = word_ALD.masked_fill(~mask_AL[..., None], 0.0)
    unit_sentence_AD = sentence_AD * inverse_norm(sentence_AD.square().sum(dim=-1, keepdim=True))
    word_norm_inverse_AL = inverse_norm(word_ALD.square().sum(dim=-1))
    unit_word_ALD = word_ALD * word_norm_inverse_AL[..., None]
    return Guides(
        sentence_AD=sentence_AD,
        word_ALD=word_ALD,
        unit_sentence_AD=unit_sentence_AD,
        mapped_sentence_AD=unit_sentence_AD if head is None else unit_sentence_AD @ head["M_g"],
        mapped_word_ALD=unit_word_ALD if head is None else unit_word_ALD @ head["M_l"],
        word_norm_inverse_AL=word_norm_inverse_AL,
        mask_AL=mask_AL,
    )


def prepare_videos(frame_BFD: Tensor, mask_BF: Tensor, *, zeros_count: bool = False) -> Frames:
    """Prepare videos for scoring. Padded frames must be finite; they are set to zero here.

    Frames that are zero count as padding, unless `zeros_count`.
    """
    frame_BFD = frame_BFD.masked_fill(~mask_BF[..., None], 0.0)
    gram_BFF = frame_BFD @ frame_BFD.transpose(-1, -2)
    return Frames(frame_BFD, gram_BFF, mask_BF if zeros_count else mask_BF & (gram_BFF.diagonal(dim1=-2, dim2=-1) > 0))


class _Products(NamedTuple):
    """The dot products of a block's texts with every frame: all the work that depends on D."""

    sentence_ABF: Tensor
    unit_sentence_ABF: Tensor
    mapped_sentence_ABF: Tensor
    word_ABLF: Tensor
    mapped_word_ABLF: Tensor


def _multiply(texts: Guides, videos: Frames, precision: torch.dtype) -> _Products:
    flat_RD = videos.frame_BFD.flatten(0, 1).to(precision)
    kept = videos.frame_BFD.dtype
    b, f = videos.mask_BF.shape

    def sentences(side_AD: Tensor) -> Tensor:
        return (side_AD.to(precision) @ flat_RD.T).to(kept).view(len(side_AD), b, f)

    def words(side_ALD: Tensor) -> Tensor:
        a, length = side_ALD.shape[:2]
        return (side_ALD.flatten(0, 1).to(precision) @ flat_RD.T).to(kept).view(a, length, b, f).transpose(1, 2)

    return _Products(
        sentences(texts.sentence_AD),
        sentences(texts.unit_sentence_AD),
        sentences(texts.mapped_sentence_AD),
        words(texts.word_ALD),
        words(texts.mapped_word_ALD),
    )


def guidance(product: Tensor, mask_BF: Tensor, tau: float) -> Tensor:
    """The method's alpha and beta: softmax(product / tau) over real frames, for dot products [A, B, F] or [A, B, L, F].

    A video without real frames gets zero weights.
    """
    mask = mask_BF if product.ndim == 3 else mask_BF[:, None, :]
    weight = (product / tau).masked_fill(~mask, FAR_BELOW).softmax(dim=-1)
    return weight.masked_fill(~mask, 0.0)


def guided_norm_inverse(weight: Tensor, gram_BFF: Tensor) -> Tensor:
    """1 / norm of the frame mixtures with these weights [A, B, F] or [A, B, L, F]; 0 if the frames of a mixture cancel out.

    The squared norm is w^T G w with the Gram matrix G. Where frames nearly cancel, rounding can make it tiny or negative. It counts as
    noise below a small share of sum_f w_f G_ff, which has no cancellation.
    """
    if weight.ndim == 3:
        return guided_norm_inverse(weight[:, :, None], gram_BFF)[:, :, 0]
    share = 1e-12 if weight.dtype == torch.float64 else 1e-5
    square_ABL = ((weight @ gram_BFF) * weight).sum(dim=-1)
    alone_ABL = (weight * gram_BFF.diagonal(dim1=-2, dim2=-1)[:, None, :]).sum(dim=-1)
    return inverse_norm(square_ABL, share * alone_ABL)


def aggregate(x: Tensor, mask: Tensor, matrix_LL: Tensor | None, kappa: float) -> Tensor:
    """The method's agg(x; P) = (softmax(x / kappa) P) . x over the last dimension, restricted to real positions.

    `mask` broadcasts to `x`. `matrix_LL` is the leading L x L block of P; None means the identity.
    """
    weight = (x / kappa).masked_fill(~mask, FAR_BELOW).softmax(dim=-1).masked_fill(~mask, 0.0)
    if matrix_LL is not None:
        weight = weight @ matrix_LL
    return (weight * x.masked_fill(~mask, 0.0)).sum(dim=-1)


def score(
    texts: Guides,
    videos: Frames,
    head: Mapping[str, Tensor] | None,
    *,
    products: torch.dtype | None = None,
    tau: float = TAU,
    kappa: float = KAPPA,
) -> Tensor:
    """The four scores [S, A, B] of prepared texts and videos, before the logit scale.

    `products` is a lower precision for the products with frames only.
    """
    product = _multiply(texts, videos, products or videos.frame_BFD.dtype)
    length = texts.mask_AL.shape[1]
    mask_A1L = texts.mask_AL[:, None, :]

    def matrix(name: str) -> Tensor | None:
        return None if head is None else head[name][:length, :length]

    alpha_ABF = guidance(product.sentence_ABF, videos.mask_BF, tau)
    inverse_AB = guided_norm_inverse(alpha_ABF, videos.gram_BFF)
    beta_ABLF = guidance(product.word_ABLF, videos.mask_BF, tau)
    inverse_ABL = guided_norm_inverse(beta_ABLF, videos.gram_BFF)

    video_sentence_AB = (alpha_ABF * product.mapped_sentence_ABF).sum(dim=-1) * inverse_AB
    x_ABL = torch.einsum("ablf,abf->abl", product.word_ABLF, alpha_ABF)
    x_ABL = x_ABL * texts.word_norm_inverse_AL[:, None, :] * inverse_AB[..., None]
    video_word_AB = aggregate(x_ABL, mask_A1L, matrix("P1"), kappa)
    y_ABL = torch.einsum("ablf,abf->abl", beta_ABLF, product.unit_sentence_ABF) * inverse_ABL
    sentence_frame_AB = aggregate(y_ABL, mask_A1L, matrix("P2"), kappa)

    # Z_ki: word k times the frame mixture guided by word i.
    z_ABKL = (product.mapped_word_ABLF @ beta_ABLF.transpose(-1, -2)) * inverse_ABL[..., None, :]
    mask_A11L = mask_A1L[:, None]
    over_k_ABL = aggregate(z_ABKL.transpose(-1, -2), mask_A11L, matrix("P3"), kappa)
    first_AB = aggregate(over_k_ABL, mask_A1L, matrix("P4"), kappa)
    over_i_ABK = aggregate(z_ABKL, mask_A11L, matrix("P5"), kappa)
    second_AB = aggregate(over_i_ABK, mask_A1L, matrix("P6"), kappa)
    return torch.stack([video_sentence_AB, video_word_AB, sentence_frame_AB, (first_AB + second_AB) / 2])
