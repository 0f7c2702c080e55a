"""A joint re-ranker over cached patch tokens: a small Transformer reads the words of a text and the patch tokens of a video together.

VEDJE (2026, "Video-Efficient Discriminative Joint Encoder for Scalable Video-Text Retrieval") re-ranks the candidates of a first stage with
a cross-encoder of 33M parameters over a cache of frame-local tokens in their order, and adds its score to that of the first stage. EDJE
(Taraday et al. 2025, arXiv 2510.06820) is its ancestor for images. What follows is that idea at a hundredth of the size of a usual encoder;
where their abstracts are silent it is ours: the sizes, the inputs, the blocks, and the loss (`train_head.training.hard_negatives`). VEDJE's
loss on the change between frames, and EDJE's compression of tokens and pretrained language model, are left out.

For a text with sentence s and words w_l, and a video with frames x_f and patch tokens y_fm, all as CLIP gives them and each through a
LayerNorm of its kind, W_* matrices to the width W, t_* vectors for the type of a position and p_f for the place of a frame in time:

    z   = Blocks( [W_s s + t_s, W_w w_l + t_w, W_y y_fm + W_x x_f + p_f + t_y] )
    score = logit scale * cos(s, mean of the unit frames) + v . q( V LN(z_0) + b ) + c

with q(t) = t sigmoid(1.702 t). v and c start at 0: an untrained re-ranker ranks as the head `mean`, and training learns a correction. The
score of a first stage is not an input, so that a score depends on the pair alone. Words have no places: the token features of CLIP's text
tower know theirs.

The blocks are pre-norm, WIDTH wide, with MLPs twice as wide. A pair of N tokens takes about 30 W^2 operations for each of its T positions,
0.1 GFLOP with 32 words and 12 frames of 4 tokens. The projections to W and those of the first block are computed once for a text and once
for a video, and the last block gives its output at position 0 alone.

Shape suffixes: A texts, B videos, L words and the sentence, F frames, M patch tokens of a frame, N patch tokens of a video, P pairs,
T positions of a pair (L + N), D joint dimension, W width of the blocks, E three times W.
"""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from data.compute.shapes import filled_rows
from train_head.batches import EncodedFrames
from train_head.heads.base import DEFAULT_EXECUTION, Execution, HeadConfig, unit, unit_mean
from train_head.heads.pairs.pairwise import PairwiseHead, Side
from train_head.kernels.blocks import LONG_VIDEO, TextBlock, VideoBlock, constant_shapes, video_blocks
from train_head.temporal import Block, heads_for
from train_head.temporal.transformer import NORM_EPSILON, QUICK, initialise_blocks

WIDTH, LAYERS, MLP_RATIO = 192, 3, 2
"""Of the blocks. Features of fewer dimensions have blocks of their own width."""
SHARED = 10
"""Videos of a text that are scored together where shapes are constant. Four take a quarter more time. With more, candidates of many lengths
would fill few blocks, and 20 candidates would not be shared evenly by two threads."""
STEP = 12
"""Texts and videos fill this many positions, or a multiple, where shapes are constant, so that the positions of SHARED pairs are a multiple
of GRAIN."""
LONG_PAIR = 1536
"""A pair of more positions is scored alone where shapes are constant."""


class JointHead(PairwiseHead):
    """A Transformer over the words of a text and the patch tokens of a video, whose output corrects the score of `mean`."""

    TRAINED_ONLY: ClassVar[bool] = True
    """Before training its scores are those of `mean`, which has them for a millionth of the work."""
    READS_PATCHES: ClassVar[bool] = True
    FRAME_MATRICES: ClassVar[bool] = True
    STARTS_FROM_CLIP: ClassVar[bool] = False
    HARD_NEGATIVES_ONLY: ClassVar[bool] = True
    PAIRS_AT_ONCE: ClassVar[int] = SHARED

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        d, w = config.dimension, min(WIDTH, config.dimension)
        kinds = ("sentence", "word", "frame", "patch")
        self.norms = nn.ModuleDict({kind: nn.LayerNorm(d, eps=NORM_EPSILON) for kind in kinds})
        self.projections = nn.ModuleDict({kind: nn.Linear(d, w, bias=False) for kind in kinds})
        self.types = nn.ParameterDict({kind: torch.zeros(w) for kind in ("sentence", "word", "patch")})
        self.times = nn.Parameter(torch.zeros(config.max_frames, w))
        """A row for the place of each frame in time."""
        self.blocks = nn.ModuleList(Block(w, heads_for(w), "QuickGELU", MLP_RATIO) for _ in range(LAYERS))
        self.pool_norm = nn.LayerNorm(w, eps=NORM_EPSILON)
        self.pool_dense, self.score = nn.Linear(w, w), nn.Linear(w, 1)
        for parameter in self.projections.parameters():
            nn.init.normal_(parameter, std=d**-0.5)
        for embedding in (self.times, *self.types.values()):
            nn.init.normal_(embedding, std=0.02)
        initialise_blocks(self.blocks)
        nn.init.normal_(self.pool_dense.weight, std=w**-0.5)
        for zeros in (self.pool_dense.bias, self.score.weight, self.score.bias):
            nn.init.zeros_(zeros)

    def encoded_bytes(self, frames: int) -> int:
        """The tokens as they are cached, then their inputs and projections in the first block."""
        tokens = frames * self.config.patches
        return super().encoded_bytes(frames) + 4 * (tokens + STEP) * 4 * self.times.shape[1]

    def encode_text_block(self, block: TextBlock) -> Side:
        """Inputs [A, L, W], their queries, keys and values in the first block [A, L, E], their mask [A, L], and unit sentences [A, D]."""
        word_ALD = block.word_ALD.masked_fill(~block.mask_AL[..., None], 0.0)
        with self.lower_precision():
            sentence_A1W = self._projected("sentence", block.sentence_AD)[:, None] + self.types["sentence"]
            x_ALW = torch.cat([sentence_A1W, self._projected("word", word_ALD) + self.types["word"]], dim=1)
        mask_AL = torch.cat([torch.ones_like(block.mask_AL[:, :1]), block.mask_AL], dim=1)
        return self._side(x_ALW, mask_AL, unit(block.sentence_AD), len(block.rows))

    def encode_video_block(self, block: VideoBlock) -> Side:
        """Inputs [B, N, W], their queries, keys and values in the first block [B, N, E], their mask [B, N], and videos of `mean` [B, D]."""
        frames = block.frames
        assert frames.patch_BFMD is not None
        mask_BF, m = frames.mask_BF, frames.patch_BFMD.shape[2]
        with self.lower_precision():
            frame_BFW = self._projected("frame", frames.frame_BFD.masked_fill(~mask_BF[..., None], 0.0))
            patch_BFMW = self._projected("patch", frames.patch_BFMD.masked_fill(~mask_BF[..., None, None], 0.0))
        of_frame_BFW = frame_BFW + self.times[: mask_BF.shape[1]] + self.types["patch"]
        x_BNW = (patch_BFMW + of_frame_BFW[:, :, None]).flatten(1, 2)
        mask_BN = mask_BF[..., None].expand(*mask_BF.shape, m).flatten(1)
        return self._side(x_BNW, mask_BN, unit_mean(frames.frame_BFD, mask_BF), len(block.rows))

    def positions_of(self, texts: Side, videos: Side) -> int:
        return texts.tensors[0].shape[1] + videos.tensors[0].shape[1]

    def score_rows(self, texts: tuple[Tensor, ...], videos: tuple[Tensor, ...]) -> Tensor:
        (text_PLW, text_PLE, text_PL, sentence_PD), (video_PNW, video_PNE, video_PN, mean_PD) = texts, videos
        mask_PT = torch.cat([text_PL, video_PN], dim=1)
        first, *middle, last = (block for block in self.blocks if isinstance(block, Block))
        with self.lower_precision():
            x_PTW = first.mixed(torch.cat([text_PLW, video_PNW], dim=1), torch.cat([text_PLE, video_PNE], dim=1), mask_PT)
            for block in middle:
                x_PTW = block(x_PTW, mask_PT)
            x_PW = last.first(x_PTW, mask_PT)
        dense_PW: Tensor = self.pool_dense(filled_rows(self.pool_norm(x_PW.to(sentence_PD.dtype))))[: len(x_PW)]
        pooled_PW = dense_PW * (QUICK * dense_PW).sigmoid()
        cosine_P = (sentence_PD * mean_PD).sum(dim=-1)
        return self.logit_scale.exp() * cosine_P + (pooled_PW * self.score.weight[0]).sum(dim=-1) + self.score.bias

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        w, d = self.times.shape[1], self.config.dimension
        t = 1 + words + self.config.patches * frames
        # Per position: 10 W^2 in the first block, 16 in those between, 4 in the last. At position 0: 12 in the last block, 2 in the dense
        # layer. Then attention: queries times keys, and weights times values. Last, the cosine.
        return w**2 * (t * (14 + 16 * (LAYERS - 2)) + 14) + w * (4 * (LAYERS - 1) * t**2 + 4 * t + 2) + 2 * d

    def _video_blocks(self, batch: EncodedFrames) -> list[VideoBlock]:
        long = (LONG_PAIR - 1 - self.config.max_words) // max(1, self.config.patches)
        return video_blocks(batch, self._most_frames(), at_once=SHARED, long=min(long, LONG_VIDEO))

    def _projected(self, kind: str, x: Tensor) -> Tensor:
        """W_kind LN(x) for features [..., D] of a kind: [..., W]."""
        row_RD: Tensor = self.norms[kind](x).flatten(0, -2)
        out_RW: Tensor = self.projections[kind](filled_rows(row_RD) if constant_shapes(x) else row_RD)
        return out_RW[: len(row_RD)].view(*x.shape[:-1], -1)

    def _side(self, x_NLW: Tensor, mask_NL: Tensor, unit_ND: Tensor, real: int) -> Side:
        """A side of pairs, filled with positions that are not read to a multiple of STEP, where shapes are constant."""
        if constant_shapes(x_NLW):
            more = -x_NLW.shape[1] % STEP
            x_NLW, mask_NL = pad(x_NLW, (0, 0, 0, more)), pad(mask_NL, (0, more))
        first = self.blocks[0]
        assert isinstance(first, Block)
        with self.lower_precision():
            qkv_NLE = first.projected(x_NLW)
        return Side((x_NLW, qkv_NLE, mask_NL, unit_ND), real)
