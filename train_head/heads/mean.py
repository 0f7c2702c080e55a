"""CLIP4Clip's pooling (Luo et al. 2021, "mean pooling" and, with the temporal encoder, "seqTransf"): the paper's parameter-free foil."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from train_head.batches import TextBatch, VideoBatch
from train_head.heads.base import Head, unit, unit_mean


class MeanHead(Head):
    """Cosine of the sentence and the mean of the frames, each frame of norm 1."""

    def encode_texts(self, batch: TextBatch) -> Tensor:
        return unit(batch.sentence_AD)

    def encode_frames(self, batch: VideoBatch) -> Tensor:
        return unit_mean(batch.frame_BFD, batch.mask_BF)

    def scores(self, texts: Tensor, videos: Tensor) -> Tensor:
        precision = self.products or texts.dtype
        return (texts.to(precision) @ videos.T.to(precision)).to(texts.dtype)[None] * self.scale()

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full(np.broadcast_shapes(words.shape, frames.shape), 2.0 * self.config.dimension)
