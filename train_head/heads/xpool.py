"""X-Pool's language-video attention (Gorti et al. 2022, "X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval").

With s the sentence and v_j the frames of a video (the paper's section on cross-modal language-video attention):

    q = LN(s) W_Q      k_j = LN(v_j) W_K      m_j = LN(v_j) W_V      a = softmax_j( q . k_j / sqrt(D) )
    r = LN( (sum_j a_j m_j) W_O )             z = LN( FC(r) + r )    score = cosine of s and z

As in the paper, one LN serves all inputs of the attention, and projections start as identities with zero biases. The paper's dropout is
left out.

Read literally, the layers after the attention process a D-dimensional vector for every pair. None of it is built. Up to the divisions by
standard deviations, z is linear in the frames. With LN(x) = g * (x - mean(x)) / deviation(x) + c, hats for vectors minus the mean of their
channels, and t_j = FC'(g_r * hat(m_j W_O)), where FC' is FC plus the identity without its bias,

    r = g_r * sum_j a_j hat(m_j W_O) / deviation_r + c_r
    FC(r) + r = sum_j b_j t_j + t_0         b_j = a_j / deviation_r,    t_0 = FC(c_r) + c_r
    z = g_z * sum_j b_j hat(t_j) / deviation_z + c_z                    j from 0 on, with b_0 = 1

So FC meets frames and not pairs. Variances and the norm of z are quadratic forms of a and b with Gram matrices of a video's frames, and the
cosine needs the products of s * g_z with the frames hat(t_j).

Shape suffixes: A texts, B videos, F frames, E frames and the constant t_0, D joint dimension.
"""

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear

from train_head.heads.base import DEFAULT_EXECUTION, Execution, Head, HeadConfig, unit
from train_head.kernels.blocks import TextBlock, VideoBlock
from train_head.kernels.plain import inverse_norm
from train_head.masking import FAR_BELOW


class Queries(NamedTuple):
    """The attention's queries, and normalised sentences times g_z, both [A, D]; normalised sentences times c_z [A]."""

    query_AD: Tensor
    weighted_AD: Tensor
    shift_A: Tensor


class Memory(NamedTuple):
    """Videos as texts meet them."""

    key_BFD: Tensor
    mask_BF: Tensor
    value_BED: Tensor
    """hat(t_j), the constant last."""
    pooled_BFF: Tensor
    """Gram matrix of hat(m_j W_O), divided by D: the variance of a mixture."""
    value_BEE: Tensor
    """Gram matrix of hat(t_j), divided by D."""
    norm_BEE: Tensor
    """Gram matrix of g_z * hat(t_j)."""
    shift_BE: Tensor
    """2 c_z . (g_z * hat(t_j))."""


class XpoolHead(Head):
    """Cosine similarity of a sentence and the frames pooled by its attention."""

    TRAINED_ONLY: ClassVar[bool] = True
    READS_WORDS: ClassVar[bool] = False

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        d = config.dimension
        self.norm_in, self.norm_pooled, self.norm_out = (nn.LayerNorm(d) for _ in range(3))
        self.query, self.key, self.value, self.out, self.fc = (nn.Linear(d, d) for _ in range(5))
        for layer in (self.query, self.key, self.value, self.out, self.fc):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode_text_block(self, block: TextBlock) -> Queries:
        unit_AD = unit(block.sentence_AD)
        query_AD = self.query(self.norm_in(block.sentence_AD)) * block.sentence_AD.shape[1] ** -0.5
        return Queries(query_AD, unit_AD * self.norm_out.weight, (unit_AD * self.norm_out.bias).sum(dim=-1))

    def encode_video_block(self, block: VideoBlock) -> Memory:
        mask_BF = block.frames.mask_BF
        frame_BFD = self.norm_in(block.frames.frame_BFD.masked_fill(~mask_BF[..., None], 0.0))
        # Apply W_O before the sum over frames. Its bias may go in too, because attention weights sum to 1.
        pooled_BFD = _centred(self.out(self.value(frame_BFD)))
        weighted_BFD = pooled_BFD * self.norm_pooled.weight
        constant_D = self.fc(self.norm_pooled.bias) + self.norm_pooled.bias
        value_BFD = linear(weighted_BFD, self.fc.weight) + weighted_BFD
        value_BED = _centred(torch.cat([value_BFD, constant_D.expand(len(value_BFD), 1, -1)], dim=1))
        scaled_BED = value_BED * self.norm_out.weight
        return Memory(
            self.key(frame_BFD),
            mask_BF,
            value_BED,
            _gram(pooled_BFD) / self.config.dimension,
            _gram(value_BED) / self.config.dimension,
            _gram(scaled_BED),
            2 * (scaled_BED * self.norm_out.bias).sum(dim=-1),
        )

    def score_block(self, texts: Queries, videos: Memory) -> Tensor:
        a, (b, frames) = len(texts.query_AD), videos.mask_BF.shape
        weight_ABF = self.execution.product(texts.query_AD, videos.key_BFD.flatten(0, 1)).view(a, b, frames)
        weight_BAF = weight_ABF.masked_fill(~videos.mask_BF, FAR_BELOW).softmax(dim=-1).transpose(0, 1).contiguous()
        deviation_BA1 = (_quadratic(weight_BAF, videos.pooled_BFF) + self.norm_pooled.eps).rsqrt()[..., None]
        weight_BAE = torch.cat([weight_BAF * deviation_BA1, torch.ones_like(deviation_BA1)], dim=-1)
        inverse_BA = (_quadratic(weight_BAE, videos.value_BEE) + self.norm_out.eps).rsqrt()
        product_BAE = self.execution.product(texts.weighted_AD, videos.value_BED.flatten(0, 1)).view(a, b, -1).transpose(0, 1).contiguous()
        dot_BA = (weight_BAE * product_BAE).sum(dim=-1) * inverse_BA + texts.shift_A
        square_BA = _quadratic(weight_BAE, videos.norm_BEE) * inverse_BA.square()
        square_BA = square_BA + (weight_BAE * videos.shift_BE[:, None]).sum(dim=-1) * inverse_BA + self.norm_out.bias.square().sum()
        return (dot_BA * inverse_norm(square_BA)).T[None]

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d, more = self.config.dimension, frames + 1
        # Queries times keys, sentences times values; one quadratic form over frames and two that include the constant; two sums.
        return 2 * (frames + more) * d + 2 * frames**2 + 2 * frames + 2 * (2 * more**2 + 2 * more) + 4 * more + 0 * words


def _centred(x: Tensor) -> Tensor:
    """Vectors [..., D] minus the mean of their channels."""
    return x - x.mean(dim=-1, keepdim=True)


def _gram(x_BFD: Tensor) -> Tensor:
    return x_BFD @ x_BFD.transpose(-1, -2)


def _quadratic(weight_BAF: Tensor, gram_BFF: Tensor) -> Tensor:
    """w G w [B, A]. Rounding can make it negative where frames cancel out; it is 0 there."""
    return ((weight_BAF @ gram_BFF) * weight_BAF).sum(dim=-1).clamp(min=0.0)
