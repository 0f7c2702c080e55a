"""DRL's weighted token-wise interaction (Wang et al. 2022, "Disentangled Representation Learning for Text-Video Retrieval").

    score = 1/2 ( sum_i p_i max_j c_ij + sum_j q_j max_i c_ij )      c_ij: cosine of word i and frame j

p is a softmax over words of the output of a small network, q the same over frames with a second network. Each network has two layers of
width D, initialised at random. Maxima exclude padding; in DRL padding takes part with a cosine of 0.

Shape suffixes: A texts, B videos, L words, F frames, R words of all texts, C frames of all videos, D joint dimension, N texts or videos,
T their words or frames.
"""

from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from train_head.heads.base import DEFAULT_EXECUTION, Execution, Head, HeadConfig, unit
from train_head.kernels.blocks import TextBlock, VideoBlock
from train_head.masking import FAR_BELOW


class Tokens(NamedTuple):
    """Normalised words or frames [N, T, D], their weights [N, T] (0 at padding), and their mask [N, T]."""

    unit_NTD: Tensor
    weight_NT: Tensor
    mask_NT: Tensor


class WtiHead(Head):
    """Matches every word to its best frame and every frame to its best word, weighted by two small networks."""

    TRAINED_ONLY: ClassVar[bool] = True

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        self.word_weight, self.frame_weight = (
            nn.Sequential(nn.Linear(config.dimension, config.dimension), nn.ReLU(), nn.Linear(config.dimension, 1)) for _ in range(2)
        )

    def encode_text_block(self, block: TextBlock) -> Tokens:
        return _tokens(block.word_ALD, block.mask_AL, self.word_weight)

    def encode_video_block(self, block: VideoBlock) -> Tokens:
        return _tokens(block.frames.frame_BFD, block.frames.mask_BF, self.frame_weight)

    def score_block(self, words: Tokens, frames: Tokens) -> Tensor:
        (a, length), (b, count) = words.mask_NT.shape, frames.mask_NT.shape
        cosine_RC = self.execution.product(words.unit_NTD.flatten(0, 1), frames.unit_NTD.flatten(0, 1))
        cosine_ALBF = cosine_RC.view(a, length, b, count)
        best_frame_ALB = cosine_ALBF.masked_fill(~frames.mask_NT, FAR_BELOW).amax(dim=3)
        best_word_ABF = cosine_ALBF.masked_fill(~words.mask_NT[:, :, None, None], FAR_BELOW).amax(dim=1)
        # Words must be last in memory: otherwise torch's order of summation, and so the bits, depend on a text's place in the block.
        text_AB = (best_frame_ALB.transpose(1, 2).contiguous() * words.weight_NT[:, None]).sum(dim=2)
        return (text_AB + (best_word_ABF * frames.weight_NT).sum(dim=2))[None] / 2

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        # All cosines, and the two weighted sums of maxima.
        return 2 * words * frames * self.config.dimension + 2 * words + 2 * frames


def _tokens(token_NTD: Tensor, mask_NT: Tensor, network: nn.Module) -> Tokens:
    token_NTD = token_NTD.masked_fill(~mask_NT[..., None], 0.0)
    weight_NT = network(token_NTD)[..., 0].masked_fill(~mask_NT, FAR_BELOW).softmax(dim=-1)
    return Tokens(unit(token_NTD), weight_NT.masked_fill(~mask_NT, 0.0), mask_NT)
