"""CLIP4Clip's tight calculator (Luo et al. 2021, "CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval", section 3.3,
"tight type").

For every pair, the sentence s and the frames x_1 ... x_F of the video pass through four Transformer blocks together, and the output at the
place of the sentence becomes one score. With p the table of positions and q(t) = t sigmoid(1.702 t):

    z = Blocks( [s + p_0, x_1 + p_1, ..., x_F + p_F] )        h = q( W LN(z_0) + b )        score = w . h + c

Features are not normalised, and there is no logit scale: the score is what the last layer gives. As in the authors' code, there are no
embeddings of the type of a position. Positions and blocks start as those of CLIP's text tower. The paper does not say how the other layers
start: here LN starts as the identity, and W and w as in BERT (Devlin et al. 2019), from a normal distribution of deviation 0.02 with zero
biases.

The head costs about 70 (F + 1) D^2 operations a pair. Only what depends on the pair is computed for the pair: the projections of the first
block are computed once for each sentence and each frame, and the last block gives its output at position 0 alone.

Shape suffixes: A texts, B videos, F frames, P pairs, T positions of a pair (1 + F), D joint dimension, E three times D.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train_head.heads.base import DEFAULT_EXECUTION, AuthorsPadding, Execution, HeadConfig
from train_head.heads.pairs.pairwise import PairwiseHead, Side
from train_head.kernels.blocks import TextBlock, VideoBlock
from train_head.temporal.transformer import NORM_EPSILON, QUICK, PositionedBlocks


class TightHead(PairwiseHead):
    """A Transformer over the sentence and the frames of every pair, and one score from its first output."""

    TRAINED_ONLY: ClassVar[bool] = True
    READS_WORDS: ClassVar[bool] = False
    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "masked"

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        # Kept in the weights, like that of every head, but neither read nor trained.
        self.logit_scale.requires_grad_(False)
        d, positions = config.dimension, config.temporal_positions or config.max_frames + 1
        self.cross = PositionedBlocks(d, positions, config.temporal_heads, config.temporal_activation)
        self.pool_norm = nn.LayerNorm(d, eps=NORM_EPSILON)
        self.pool_dense, self.score = nn.Linear(d, d), nn.Linear(d, 1)
        for layer in (self.pool_dense, self.score):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    @property
    def started_blocks(self) -> PositionedBlocks:
        return self.cross

    def frame_limits(self) -> dict[str, int]:
        positions = len(self.cross.positional_embedding)
        return {f"head {self.name} has {positions} positions, one of them for the sentence": positions - 1}

    def encode_text_block(self, block: TextBlock) -> Side:
        """Sentences at position 0 [A, D], and their queries, keys and values in the first block [A, E]."""
        x_AD = block.sentence_AD + self.cross.positional_embedding[0]
        with self.lower_precision():
            qkv_AE = self.cross.in_order()[0].projected(x_AD)
        # Texts that fill the block would cost as much as the others.
        count = len(block.rows)
        return Side((x_AD[:count], qkv_AE[:count]), count)

    def encode_video_block(self, block: VideoBlock) -> Side:
        """Frames at their positions [B, F, D], their queries, keys and values in the first block [B, F, E], and their mask [B, F]."""
        batch = block.frames
        x_BFD = batch.frame_BFD.masked_fill(~batch.mask_BF[..., None], 0.0)
        x_BFD = x_BFD + self.cross.positional_embedding[1 : 1 + x_BFD.shape[1]]
        with self.lower_precision():
            qkv_BFE = self.cross.in_order()[0].projected(x_BFD)
        return Side((x_BFD, qkv_BFE, batch.mask_BF), len(block.rows))

    def positions_of(self, texts: Side, videos: Side) -> int:
        return 1 + videos.tensors[0].shape[1]

    def score_rows(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...]) -> Tensor:
        return (self._pooled_rows(texts, videos) * self.score.weight[0]).sum(dim=-1) + self.score.bias

    @torch.no_grad()
    def pooled(self, texts: Any, videos: Any) -> Tensor:
        """The vectors h [A, B, D] of encoded texts and videos, before the last layer."""
        return self._assembled(lambda *pair: self.in_pieces(self._pooled_rows, *pair).permute(2, 0, 1), texts, videos).permute(1, 2, 0)

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d, t = self.config.dimension, frames + 1
        # Per position: 18 D^2 in the first block, 24 in the two others, 4 in the last. At position 0: 20 in the last block, 2 in the dense
        # layer. Then attention: queries times keys, and weights times values.
        return d**2 * (70 * t + 22) + d * (12 * t**2 + 4 * t + 2) + 0 * words

    def _pooled_rows(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...]) -> Tensor:
        """h [P, D] of pairs."""
        (x_PD, text_PE), (x_PFD, frame_PFE, mask_PF) = texts, videos
        mask_PT = torch.cat([torch.ones_like(mask_PF[:, :1]), mask_PF], dim=1)
        first, *middle, last = self.cross.in_order()
        with self.lower_precision():
            x_PTD = first.mixed(torch.cat([x_PD[:, None], x_PFD], dim=1), torch.cat([text_PE[:, None], frame_PFE], dim=1), mask_PT)
            for block in middle:
                x_PTD = block(x_PTD, mask_PT)
            out_PD = last.first(x_PTD, mask_PT)
        dense_PD: Tensor = self.pool_dense(self.pool_norm(out_PD.to(x_PD.dtype)))
        return dense_PD * (QUICK * dense_PD).sigmoid()
