"""CLIP4Clip's pooling (Luo et al. 2021): "meanP" without a temporal encoder, "seqTransf" or "seqLSTM" with one."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from train_head.heads.base import AuthorsPadding, Head, unit, unit_mean
from train_head.kernels.blocks import TextBlock, VideoBlock


class MeanHead(Head):
    """Cosine similarity of the sentence and the mean of the normalised frames."""

    READS_WORDS: ClassVar[bool] = False
    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "masked"

    def encode_text_block(self, block: TextBlock) -> Tensor:
        return unit(block.sentence_AD)

    def encode_video_block(self, block: VideoBlock) -> Tensor:
        return unit_mean(block.frames.frame_BFD, block.frames.mask_BF)

    def score_block(self, texts: Tensor, videos: Tensor) -> Tensor:
        return self.execution.product(texts, videos)[None]

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full(np.broadcast_shapes(words.shape, frames.shape), 2.0 * self.config.dimension)
