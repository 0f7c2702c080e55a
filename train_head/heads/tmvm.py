"""TMVM (Lin et al., NeurIPS 2022, "Text-Adaptive Multiple Visual Prototype Matching for Video-Text Retrieval", arXiv 2209.13307).

A video has K prototypes instead of one feature, and a text is compared with the nearest. With s the sentence, t_n the N tokens of a video
and u(x) = x / |x|:

    masks             m_kn = sigmoid( sqrt(D) w_k . u(t_n) + c_k )        w_k, c_k learned, k = 1 ... K
    prototypes        p_k = u( sum_n m_kn u(t_n) )
    score             max_k cos( s, p_k )
    variance loss     VARIANCE * mean over videos of ( 1 - 4 mean_n Var_k(m_kn) )        Var_k: over the K masks, divided by K

The tokens of `tmvm` are the patch tokens and the features of all frames, those of `tmvm-frames` the features of the frames alone.

From the paper, as its abstract states it: several prototypes of a video, aggregated from its tokens; the most similar prototype gives the
similarity; a variance loss makes the prototypes attend to different contents. Nothing is compared with its code. The rest is our reading:
masks that are linear in the direction of a token, with a sigmoid; tokens of norm 1, so that equal masks give the score of `mean`; the form
of the variance loss, which is 1 times its weight where all masks are equal and 0 where every token is wholly in half of the masks and
wholly out of the others; PROTOTYPES and VARIANCE. The paper trains CLIP's towers, and this head reads a frozen tower's features.

No positions enter: the order of tokens and frames changes nothing, unless a temporal encoder stands in front. It encodes frames, not patch
tokens.

Shape suffixes: A texts, B videos, F frames, M patch tokens of a frame, N tokens of a video, K prototypes, D joint dimension.
"""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear

from train_head.batches import EncodedFrames, TextBatch
from train_head.heads.base import DEFAULT_EXECUTION, Execution, Head, HeadConfig, unit
from train_head.kernels.blocks import TextBlock, VideoBlock

PROTOTYPES = 8
"""K, the prototypes of a video."""
VARIANCE = 0.1
"""Weight of the variance loss."""


class TmvmHead(Head):
    """The best cosine of the sentence with the prototypes of a video, each a sum of patch tokens and frames under a learned mask."""

    TRAINED_ONLY: ClassVar[bool] = True
    READS_WORDS: ClassVar[bool] = False
    READS_PATCHES: ClassVar[bool] = True

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        self.mask = nn.Linear(config.dimension, PROTOTYPES)

    @property
    def extra_loss_names(self) -> tuple[str, ...]:
        return ("variance",)

    def tokens(self, frames: EncodedFrames) -> list[tuple[Tensor, Tensor]]:
        """The tokens of each kind, normalised [B, N, D], and their mask [B, N]."""
        kinds = [(unit(frames.frame_BFD), frames.mask_BF)]
        if self.READS_PATCHES:
            assert frames.patch_BFMD is not None
            real_BN = frames.mask_BF.repeat_interleave(frames.patch_BFMD.shape[2], dim=1)
            kinds.append((unit(frames.patch_BFMD.flatten(1, 2)), real_BN))
        return kinds

    def masks(self, unit_BND: Tensor, real_BN: Tensor) -> Tensor:
        """m [B, N, K] of normalised tokens: 0 for those of padded frames."""
        # sqrt(D) goes with the weights, which are fewer than the tokens.
        mask_BNK: Tensor = linear(unit_BND, self.mask.weight * self.config.dimension**0.5, self.mask.bias).sigmoid()
        return mask_BNK.masked_fill(~real_BN[..., None], 0.0)

    def encode_text_block(self, block: TextBlock) -> Tensor:
        return unit(block.sentence_AD)

    def encode_video_block(self, block: VideoBlock) -> Tensor:
        """The prototypes [B, K, D], normalised."""
        sums = [self.masks(unit_BND, real_BN).transpose(1, 2) @ unit_BND for unit_BND, real_BN in self.tokens(block.frames)]
        return unit(torch.stack(sums).sum(dim=0))

    def score_block(self, texts: Tensor, videos: Tensor) -> Tensor:
        cosine_ABK = self.execution.product(texts, videos.flatten(0, 1)).view(len(texts), -1, PROTOTYPES)
        return cosine_ABK.amax(dim=2)[None]

    def extra_losses(self, texts: TextBatch, videos: EncodedFrames, left_out_AB: Tensor | None = None) -> dict[str, Tensor]:
        """The variance loss."""
        tokens = self.tokens(videos)
        mask_BNK = torch.cat([self.masks(unit_BND, real_BN) for unit_BND, real_BN in tokens], dim=1)
        # Padding counts 0 in the sum: its masks are equal.
        spread_B = mask_BNK.var(dim=2, correction=0).sum(dim=1) / torch.cat([real_BN for _, real_BN in tokens], dim=1).sum(dim=1)
        return {"variance": VARIANCE * (1 - 4 * spread_B).mean()}

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full(np.broadcast_shapes(words.shape, frames.shape), 2.0 * PROTOTYPES * self.config.dimension)


class TmvmFramesHead(TmvmHead):
    """`TmvmHead` over the features of frames alone."""

    READS_PATCHES: ClassVar[bool] = False
