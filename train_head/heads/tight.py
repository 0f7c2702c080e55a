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

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data.compute.shapes import GRAIN
from train_head.heads.base import DEFAULT_EXECUTION, AuthorsPadding, Execution, Head, HeadConfig
from train_head.kernels.blocks import TextBlock, VideoBlock, constant_shapes
from train_head.temporal.transformer import NORM_EPSILON, QUICK, PositionedBlocks

PAIRS_AT_ONCE = GRAIN // 2
"""Videos that a text passes through the blocks with, where shapes are constant. Their positions are rows of the products, where half of
GRAIN suffices."""
ROWS_AT_ONCE = {"cpu": 2048, "cuda": 16_384}
"""Positions of all pairs that pass through the blocks at once, where shapes may vary. In training a row takes about 58 D numbers: 240 MB on
a CPU at D = 512. The process grows by more with the batch, because freed pieces leave holes in the heap."""


class Sentences(NamedTuple):
    """Sentences at position 0 [A, D], and their queries, keys and values in the first block [A, E]."""

    x_AD: Tensor
    qkv_AE: Tensor


class Frames(NamedTuple):
    """Frames at their positions [B, F, D], their queries, keys and values in the first block [B, F, E], and their mask [B, F]."""

    x_BFD: Tensor
    qkv_BFE: Tensor
    mask_BF: Tensor
    real: int
    """How many of the videos are real: the others fill the block."""


class TightHead(Head):
    """A Transformer over the sentence and the frames of every pair, and one score from its first output."""

    TRAINED_ONLY: ClassVar[bool] = True
    READS_WORDS: ClassVar[bool] = False
    OWN_BLOCKS: ClassVar[bool] = True
    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "masked"
    WORDS_PER_STRIP: ClassVar[int] = 1
    """Few texts at once: they share no work, and strips of few texts are shared evenly by threads."""

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

    def scale(self) -> Tensor:
        """1: this head has no logit scale."""
        return torch.ones_like(self.logit_scale)

    @property
    def started_blocks(self) -> PositionedBlocks:
        return self.cross

    def frame_limits(self) -> dict[str, int]:
        positions = len(self.cross.positional_embedding)
        return {f"head {self.name} has {positions} positions, one of them for the sentence": positions - 1}

    def encode_text_block(self, block: TextBlock) -> Sentences:
        x_AD = block.sentence_AD + self.cross.positional_embedding[0]
        with self._precision():
            qkv_AE = self.cross.in_order()[0].projected(x_AD)
        # Texts that fill the block would cost as much as the others.
        return Sentences(x_AD[: len(block.rows)], qkv_AE[: len(block.rows)])

    def encode_video_block(self, block: VideoBlock) -> Frames:
        batch = block.frames
        x_BFD = batch.frame_BFD.masked_fill(~batch.mask_BF[..., None], 0.0)
        x_BFD = x_BFD + self.cross.positional_embedding[1 : 1 + x_BFD.shape[1]]
        with self._precision():
            qkv_BFE = self.cross.in_order()[0].projected(x_BFD)
        return Frames(x_BFD, qkv_BFE, batch.mask_BF, len(block.rows))

    def score_block(self, texts: Sentences, videos: Frames) -> Tensor:
        return self._in_pieces(self._piece_scores, texts, videos)[None]

    @torch.no_grad()
    def pooled(self, texts: Any, videos: Any) -> Tensor:
        """The vectors h [A, B, D] of encoded texts and videos, before the last layer."""
        return self._assembled(lambda *pair: self._in_pieces(self._piece_pooled, *pair).permute(2, 0, 1), texts, videos).permute(1, 2, 0)

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d, t = self.config.dimension, frames + 1
        # Per position: 18 D^2 in the first block, 24 in the two others, 4 in the last. At position 0: 20 in the last block, 2 in the dense
        # layer. Then attention: queries times keys, and weights times values.
        return d**2 * (70 * t + 22) + d * (12 * t**2 + 4 * t + 2) + 0 * words

    def _precision(self) -> torch.autocast:
        lower = self.execution.products
        return torch.autocast(self.logit_scale.device.type, lower, enabled=lower is not None)

    def _in_pieces(self, work: Callable[..., Tensor], texts: Sentences, videos: Frames) -> Tensor:
        """`work` for all pairs of a block [A, B, ...], on a few texts and videos at a time, which bounds the memory. With gradients, it is
        done again in the backward pass rather than keep what it computes."""
        size_A, size_B = self._piece_sizes(len(texts.x_AD), videos.mask_BF)
        parts = zip(*(tensor.split(size_B) for tensor in videos[:3]), strict=True)
        some_videos = [part for first, part in zip(range(0, videos.real, size_B), parts, strict=False)]
        some_texts = list(zip(*(tensor.split(size_A) for tensor in texts), strict=True))
        if torch.is_grad_enabled() and len(some_texts) * len(some_videos) > 1:
            once = work

            def work(*given: Tensor) -> Tensor:
                out: Tensor = checkpoint(once, *given, use_reentrant=False, preserve_rng_state=False)
                return out

        return torch.cat([torch.cat([work(*some, *others) for others in some_videos], dim=1) for some in some_texts])

    def _piece_sizes(self, texts: int, mask_BF: Tensor) -> tuple[int, int]:
        """How many texts and videos to score at a time."""
        videos, frames = mask_BF.shape
        if constant_shapes(mask_BF):
            return 1, min(PAIRS_AT_ONCE, videos)
        pairs = max(1, ROWS_AT_ONCE.get(mask_BF.device.type, ROWS_AT_ONCE["cpu"]) // (1 + frames))
        return min(texts, max(1, pairs // videos)), min(videos, pairs)

    def _piece_scores(self, *given: Tensor) -> Tensor:
        """The scores [A, B] of a few texts and videos."""
        return (self._piece_pooled(*given) * self.score.weight[0]).sum(dim=-1) + self.score.bias

    def _piece_pooled(self, x_AD: Tensor, qkv_AE: Tensor, x_BFD: Tensor, qkv_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """h [A, B, D] of a few texts and videos."""
        shape = len(x_AD), len(mask_BF)

        def pairs(text_AD: Tensor, frame_BFD: Tensor) -> Tensor:
            """[P, T, ...] of [A, ...] and [B, F, ...]."""
            first_AB1D = text_AD[:, None, None].expand(*shape, 1, -1)
            return torch.cat([first_AB1D, frame_BFD.expand(shape[0], *frame_BFD.shape)], dim=2).flatten(0, 1)

        mask_BT = torch.cat([torch.ones_like(mask_BF[:, :1]), mask_BF], dim=1)
        mask_PT = mask_BT.expand(shape[0], *mask_BT.shape).flatten(0, 1)
        first, *middle, last = self.cross.in_order()
        with self._precision():
            x_PTD = first.mixed(pairs(x_AD, x_BFD), pairs(qkv_AE, qkv_BFE), mask_PT)
            for block in middle:
                x_PTD = block(x_PTD, mask_PT)
            x_PD = last.first(x_PTD, mask_PT)
        dense_PD: Tensor = self.pool_dense(self.pool_norm(x_PD.to(x_AD.dtype)))
        pooled_PD = dense_PD * (QUICK * dense_PD).sigmoid()
        return pooled_PD.view(*shape, -1)
