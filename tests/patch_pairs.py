"""A head of one's own that reads patch tokens for every pair: `zero-shot:tests.patch_pairs:PatchPairs`.

Shape suffixes: A texts, B videos, F frames, M patch tokens of a frame, D joint dimension.
"""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train_head.heads.base import unit
from train_head.heads.mean import MeanHead
from train_head.kernels.blocks import VideoBlock


class PatchPairs(MeanHead):
    """Scores a text and a video by the patch token that is nearest to the sentence, in blocks of one text."""

    WORDS_PER_STRIP: ClassVar[int] = 1
    READS_PATCHES: ClassVar[bool] = True

    def encode_video_block(self, block: VideoBlock) -> Tensor:
        patch_BFMD = block.frames.patch_BFMD
        assert patch_BFMD is not None
        # A padded frame counts as the first frame again.
        return torch.where(block.frames.mask_BF[..., None, None], unit(patch_BFMD), unit(patch_BFMD[:, :1])).flatten(1, 2)

    def score_block(self, texts: Tensor, videos: Tensor) -> Tensor:
        assert len(texts) == 1 or torch.is_grad_enabled()
        return torch.stack([(videos * text_D).sum(dim=-1).amax(dim=-1) for text_D in texts])[None]

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2.0 * self.config.dimension * self.config.patches * frames + 0 * words
