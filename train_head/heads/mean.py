"""CLIP4Clip's pooling (Luo et al. 2021, "mean pooling" and, with the temporal encoder, "seqTransf"): the paper's parameter-free foil."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from train_head.batches import TextBatch, VideoBatch
from train_head.heads.base import Head


class MeanHead(Head):
    """Cosine of the sentence and the mean of the frames, each frame of norm 1."""

    def encode_texts(self, batch: TextBatch) -> Tensor:
        return normalize(batch.sentence_AD, dim=-1)

    def encode_frames(self, batch: VideoBatch) -> Tensor:
        unit_BFD = normalize(batch.frame_BFD, dim=-1) * batch.mask_BF[..., None]
        return normalize(unit_BFD.sum(dim=1), dim=-1)

    def scores(self, texts: Tensor, videos: Tensor) -> Tensor:
        precision = self.products or texts.dtype
        return (texts.to(precision) @ videos.T.to(precision)).to(texts.dtype)[None] * self.scale()

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full(np.broadcast_shapes(words.shape, frames.shape), 2.0 * self.config.dimension)
