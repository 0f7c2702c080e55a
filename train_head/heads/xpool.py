"""X-Pool's language-video attention (Gorti et al. 2022, "X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval").

With s the sentence and v_j the frames of a video (the paper's section on cross-modal language-video attention):

    q = LN(s) W_Q      k_j = LN(v_j) W_K      m_j = LN(v_j) W_V      a = softmax_j( q . k_j / sqrt(D) )
    r = LN( (sum_j a_j m_j) W_O )             z = LN( FC(r) + r )    score = cosine of s and z

As in the paper, one LN serves all inputs of the attention, and projections start as identities with zero biases. The paper's dropout is
left out. We mask padded frames. X-Pool has no mask, so with the authors' padding they count.

Read literally, the layers after the attention process a D-dimensional vector for every pair. None of it is built. Up to the divisions by
standard deviations, z is linear in the frames. With LN(x) = g * (x - mean(x)) / deviation(x) + c, hats for vectors minus the mean of their
channels, and t_j = FC'(g_r * hat(m_j W_O)), where FC' is FC plus the identity without its bias,

    r = g_r * sum_j a_j hat(m_j W_O) / deviation_r + c_r
    FC(r) + r = sum_j b_j t_j + t_0         b_j = a_j / deviation_r,    t_0 = FC(c_r) + c_r
    z = g_z * sum_j b_j hat(t_j) / deviation_z + c_z                    j from 0 on, with b_0 = 1

So FC meets frames and not pairs. Variances and the norm of z are quadratic forms of a and b with Gram matrices of a video's frames, and the
cosine needs the products of s * g_z with the frames hat(t_j).

Shape suffixes: A texts, B videos, F frames, E frames, the constant t_0 and zeros up to a multiple of FRAMES_STEP, D joint dimension.
"""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from train_head.heads.base import DEFAULT_EXECUTION, AuthorsPadding, Execution, Head, HeadConfig, unit
from train_head.kernels.blocks import FRAMES_STEP, TextBlock, VideoBlock
from train_head.kernels.plain import inverse_norm
from train_head.masking import FAR_BELOW


class Queries(NamedTuple):
    """Normalised sentences and the attention's queries, both [A, D]."""

    unit_AD: Tensor
    query_AD: Tensor


class Memory(NamedTuple):
    """Videos as X-Pool's attention meets them."""

    key_BFD: Tensor
    mask_BF: Tensor
    """True at the frames that count."""
    value_BED: Tensor
    """hat(t_j), the constant, and zeros."""
    pooled_BFF: Tensor
    """Gram matrix of hat(m_j W_O), divided by D: the variance of a mixture."""
    value_BEE: Tensor
    """Gram matrix of hat(t_j), divided by D."""


class XpoolAttention(Head):
    """X-Pool's layers and its attention, for the heads that pool frames with it."""

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

    def queries_of(self, block: TextBlock) -> Queries:
        """What a block of texts asks."""
        return Queries(unit(block.sentence_AD), self.query(self.norm_in(block.sentence_AD)) * block.sentence_AD.shape[1] ** -0.5)

    def memory_of(self, block: VideoBlock) -> Memory:
        """What a block of videos answers with."""
        mask_BF = torch.ones_like(block.frames.mask_BF) if self.with_padding else block.frames.mask_BF
        frame_BFD = self.norm_in(block.frames.frame_BFD.masked_fill(~mask_BF[..., None], 0.0))
        # Apply W_O before the sum over frames. Its bias may go in too, because attention weights sum to 1.
        pooled_BFD = _centred(self.out(self.value(frame_BFD)))
        weighted_BFD = pooled_BFD * self.norm_pooled.weight
        constant_D = self.fc(self.norm_pooled.bias) + self.norm_pooled.bias
        value_BFD = linear(weighted_BFD, self.fc.weight) + weighted_BFD
        # Products over another number of frames would have other last bits at some rows, on some processors.
        value_BED = in_steps(_centred(torch.cat([value_BFD, constant_D.expand(len(value_BFD), 1, -1)], dim=1)))
        d = self.config.dimension
        return Memory(self.key(frame_BFD), mask_BF, value_BED, gram(pooled_BFD) / d, gram(value_BED) / d)

    def mixtures(self, texts: Queries, videos: Memory) -> Tensor:
        """The weights b_j / deviation_z [B, A, E] of the vectors hat(t_j) in z."""
        a, (b, frames) = len(texts.query_AD), videos.mask_BF.shape
        weight_ABF = self.execution.product(texts.query_AD, videos.key_BFD.flatten(0, 1)).view(a, b, frames)
        # Contiguous, so that sums over F read memory in the same order wherever a text stands.
        weight_BAF = weight_ABF.masked_fill(~videos.mask_BF, FAR_BELOW).softmax(dim=-1).transpose(0, 1).contiguous()
        inverse_BA1 = (quadratic(weight_BAF, videos.pooled_BFF) + self.norm_pooled.eps).rsqrt()[..., None]
        weight_BAE = torch.cat([weight_BAF * inverse_BA1, torch.ones_like(inverse_BA1)], dim=-1)
        weight_BAE = pad(weight_BAE, (0, videos.value_BED.shape[1] - weight_BAE.shape[-1]))
        return weight_BAE * (quadratic(weight_BAE, videos.value_BEE) + self.norm_out.eps).rsqrt()[..., None]


class _Texts(NamedTuple):
    """X-Pool's queries, and the parts of s . z that do not depend on the video."""

    queries: Queries
    weighted_AD: Tensor
    """Normalised sentences times g_z."""
    shift_A: Tensor
    """Normalised sentences . c_z."""


class _Videos(NamedTuple):
    """X-Pool's memory, and the parts of |z|^2 that do not depend on the text."""

    memory: Memory
    norm_BEE: Tensor
    """Gram matrix of g_z * hat(t_j)."""
    shift_BE: Tensor
    """2 c_z . (g_z * hat(t_j))."""


class XpoolHead(XpoolAttention):
    """Cosine similarity of a sentence and the frames pooled by its attention."""

    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "counts"

    def encode_text_block(self, block: TextBlock) -> _Texts:
        queries = self.queries_of(block)
        return _Texts(queries, queries.unit_AD * self.norm_out.weight, (queries.unit_AD * self.norm_out.bias).sum(dim=-1))

    def encode_video_block(self, block: VideoBlock) -> _Videos:
        memory = self.memory_of(block)
        scaled_BED = memory.value_BED * self.norm_out.weight
        return _Videos(memory, gram(scaled_BED), 2 * (scaled_BED * self.norm_out.bias).sum(dim=-1))

    def score_block(self, texts: _Texts, videos: _Videos) -> Tensor:
        value_BED, (a, b) = videos.memory.value_BED, (len(texts.shift_A), len(videos.shift_BE))
        weight_BAE = self.mixtures(texts.queries, videos.memory)
        product_BAE = self.execution.product(texts.weighted_AD, value_BED.flatten(0, 1)).view(a, b, -1).transpose(0, 1).contiguous()
        dot_BA = (weight_BAE * product_BAE).sum(dim=-1) + texts.shift_A
        square_BA = quadratic(weight_BAE, videos.norm_BEE) + (weight_BAE * videos.shift_BE[:, None]).sum(dim=-1)
        return (dot_BA * inverse_norm(square_BA + self.norm_out.bias.square().sum())).T[None]

    @torch.no_grad()
    def pooled(self, texts: Any, videos: Any) -> Tensor:
        """The vectors z [A, B, D] of encoded texts and videos, which scoring does not build."""
        return self._assembled(self._pooled_block, texts, videos).permute(1, 2, 0)

    def _pooled_block(self, texts: _Texts, videos: _Videos) -> Tensor:
        weight_BAE = self.mixtures(texts.queries, videos.memory)
        z_BAD = weight_BAE @ (videos.memory.value_BED * self.norm_out.weight) + self.norm_out.bias
        return z_BAD.permute(2, 1, 0)

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d, more = self.config.dimension, with_zeros(frames + 1)
        # Queries times keys, sentences times values; one quadratic form over frames and two that include the constant; two sums.
        return 2 * (frames + more) * d + 2 * frames**2 + 2 * frames + 2 * (2 * more**2 + 2 * more) + 4 * more + 0 * words


def _centred(x: Tensor) -> Tensor:
    """Vectors [..., D] minus the mean of their channels."""
    return x - x.mean(dim=-1, keepdim=True)


def with_zeros(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers of vectors, with the zeros of `in_steps`."""
    return np.ceil(vectors / FRAMES_STEP) * FRAMES_STEP


def in_steps(x_BED: Tensor) -> Tensor:
    """The vectors, and zeros up to a multiple of FRAMES_STEP."""
    return pad(x_BED, (0, 0, 0, -x_BED.shape[1] % FRAMES_STEP))


def gram(x_BFD: Tensor) -> Tensor:
    """The dot products [B, F, F] of a video's vectors with each other."""
    return x_BFD @ x_BFD.transpose(-1, -2)


def quadratic(weight_BAF: Tensor, gram_BFF: Tensor) -> Tensor:
    """w G w [B, A]. Rounding can make it negative where frames cancel out; it is 0 there."""
    return ((weight_BAF @ gram_BFF) * weight_BAF).sum(dim=-1).clamp(min=0.0)
