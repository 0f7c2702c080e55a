"""X-Pool's language-video attention (Gorti et al. 2022, "X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval").

With s the sentence and v_j the frames of a video (the paper's section on cross-modal language-video attention):

    q = LN(s) W_Q      k_j = LN(v_j) W_K      m_j = LN(v_j) W_V      a = softmax_j( q . k_j / sqrt(D) )
    r = LN( (sum_j a_j m_j) W_O )             z = LN( FC(r) + r )    score = cosine of s and z

As in the paper, one LN serves all inputs of the attention, and projections start as identities with zero biases. The paper's dropout is
left out. This head is expensive because the layers after the attention process a D-dimensional vector for every pair.

Shape suffixes: A texts, B videos, F frames, D joint dimension.
"""

from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from train_head.heads.base import DEFAULT_EXECUTION, Execution, Head, HeadConfig, unit
from train_head.kernels.blocks import TextBlock, VideoBlock
from train_head.kernels.plain import inverse_norm
from train_head.masking import FAR_BELOW


class Queries(NamedTuple):
    """Normalised sentences and the attention's queries, both [A, D]."""

    unit_AD: Tensor
    query_AD: Tensor


class Memory(NamedTuple):
    """The attention's keys and values (already times W_O), both [B, F, D], and the mask of the frames [B, F]."""

    key_BFD: Tensor
    value_BFD: Tensor
    mask_BF: Tensor


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
        batch = block.frames
        frame_BFD = self.norm_in(batch.frame_BFD.masked_fill(~batch.mask_BF[..., None], 0.0))
        # Apply W_O before the sum over frames. Its bias may go in too, because attention weights sum to 1.
        return Memory(self.key(frame_BFD), self.out(self.value(frame_BFD)), batch.mask_BF)

    def attention(self, texts: Queries, videos: Memory) -> Tensor:
        """The weights a of the frames [A, B, F], 0 at padding."""
        b, frames, _ = videos.key_BFD.shape
        weight_ABF = self.execution.product(texts.query_AD, videos.key_BFD.flatten(0, 1)).view(-1, b, frames)
        return weight_ABF.masked_fill(~videos.mask_BF, FAR_BELOW).softmax(dim=-1)


class XpoolHead(XpoolAttention):
    """Cosine similarity of a sentence and the frames pooled by its attention."""

    def encode_text_block(self, block: TextBlock) -> Queries:
        return self.queries_of(block)

    def encode_video_block(self, block: VideoBlock) -> Memory:
        return self.memory_of(block)

    def score_block(self, texts: Queries, videos: Memory) -> Tensor:
        weight_ABF = self.attention(texts, videos)
        pooled_BAD = self.norm_pooled(weight_ABF.transpose(0, 1) @ videos.value_BFD)
        guided_BAD = self.norm_out(self.fc(pooled_BAD) + pooled_BAD)
        inverse_BA = inverse_norm(guided_BAD.square().sum(dim=-1))
        score_AB: Tensor = ((guided_BAD * texts.unit_AD).sum(dim=-1) * inverse_BA).T
        return score_AB[None]

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d = self.config.dimension
        # Queries times keys, weights times values, the FC layer, the cosine.
        return 4 * frames * d + 2 * d**2 + 2 * d + 0 * words
