"""A head of one's own that claims a Transformer's work for every pair: `zero-shot:tests.pair_by_pair:PairByPair`."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train_head.heads.mean import MeanHead


class PairByPair(MeanHead):
    """Scores as head mean, but in a type that rounds, which makes ties, and in blocks of one text."""

    WORDS_PER_STRIP: ClassVar[int] = 1

    def score_block(self, texts: Tensor, videos: Tensor) -> Tensor:
        assert len(texts) == 1 or torch.is_grad_enabled()
        return (super().score_block(texts, videos) * 16).round() / 16

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1e15 + 0 * words * frames
