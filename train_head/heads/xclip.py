"""X-CLIP (Ma et al. 2022, "X-CLIP: End-to-End Multi-grained Contrastive Learning for Video-Text Retrieval"): multi-grained contrast.

The four scores of GLCCL without text guidance. The mean of a video's frames replaces the sentence-guided feature, and single frames replace
the word-guided ones. Every aggregation (X-CLIP's attention over similarity matrices, AOSM) has a learned matrix, over words
[max_words, max_words] or over frames [max_frames, max_frames].

As in X-CLIP, the video feature is the normalised mean of normalised frames after the temporal encoder, while single frames are taken from
before it and normalised. Unlike in X-CLIP, aggregations mask padded words and frames. With the authors' padding they count there, and only
the video feature and the temporal encoder mask padded frames.

Training on a CPU in float32 runs the aggregations in compiled loops (train_head/kernels/aggregation.py).

Shape suffixes: A texts, B videos, L words, F frames, C frames of all videos, D joint dimension, S the scores of a pair.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train_head.heads.base import (
    DEFAULT_EXECUTION,
    SCORES,
    AuthorsPadding,
    Execution,
    Head,
    HeadConfig,
    aggregate_flops,
    chosen_scores,
    picked,
    unit,
    unit_mean,
)
from train_head.kernels.aggregation import aggregate_pairs, laned
from train_head.kernels.blocks import TextBlock, VideoBlock, constant_shapes
from train_head.kernels.loops import compilable
from train_head.kernels.plain import Guides, aggregate, prepare_texts

OVER_WORDS, OVER_FRAMES = ("P1", "P3", "P6"), ("P2", "P4", "P5")
"""The matrices of the aggregations over words and over frames, in the order of the scores that use them."""


@dataclass(frozen=True)
class PooledVideos:
    """Normalised video features [B, D] and frames [B, F, D], and which frames count [B, F]."""

    unit_video_BD: Tensor
    unit_frame_BFD: Tensor
    counts_BF: Tensor
    """True at the frames that count: the real ones, or with the authors' padding all."""
    column_CD: Tensor | None
    """The frames in the order of the compiled loops. None where plain operations compute."""


class XclipHead(Head):
    """The four scores of GLCCL without text guidance. P1, P3 and P6 aggregate over words, P2, P4 and P5 over frames."""

    NAMES: ClassVar[tuple[str, ...]] = SCORES
    TEMPERATURES: ClassVar[tuple[str, ...]] = ("kappa",)
    FRAME_MATRICES: ClassVar[bool] = True
    WORD_MATRICES: ClassVar[bool] = True
    READS_BEFORE: ClassVar[bool] = True
    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "counts"

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        self.chosen = chosen_scores(config.scores, SCORES)
        size = {"M_g": config.dimension, "M_l": config.dimension}
        size |= dict.fromkeys(OVER_WORDS, config.max_words) | dict.fromkeys(OVER_FRAMES, config.max_frames)
        for matrix in sorted(size):
            self.register_parameter(matrix, nn.Parameter(torch.eye(size[matrix])))

    def encode_text_block(self, block: TextBlock) -> Guides:
        head = {"M_g": self.get_parameter("M_g"), "M_l": self.get_parameter("M_l")}
        mask_AL = torch.ones_like(block.mask_AL) if self.with_padding else block.mask_AL
        return prepare_texts(block.sentence_AD, block.word_ALD, mask_AL, head)

    def encode_video_block(self, block: VideoBlock) -> PooledVideos:
        batch = block.frames
        assert batch.before_BFD is not None
        counts_BF = torch.ones_like(batch.mask_BF) if self.with_padding else batch.mask_BF
        unit_frame_BFD = unit(batch.before_BFD.masked_fill(~counts_BF[..., None], 0.0))
        column_CD = laned(unit_frame_BFD) if _compiled(unit_frame_BFD) else None
        return PooledVideos(unit_mean(batch.frame_BFD, batch.mask_BF), unit_frame_BFD, counts_BF, column_CD)

    def score_block(self, texts: Guides, videos: PooledVideos) -> Tensor:
        (a, length), (b, frames) = texts.mask_AL.shape, videos.counts_BF.shape
        flat_RD = videos.unit_frame_BFD.flatten(0, 1)
        mask_A1L, mask_1BF = texts.mask_AL[:, None], videos.counts_BF[None]
        kappa = self.config.kappa

        def matrix(name: str, size: int) -> Tensor:
            return self.get_parameter(name)[:size, :size]

        unit_word_ALD = texts.word_ALD * texts.word_norm_inverse_AL[..., None]
        video_sentence_AB = texts.mapped_sentence_AD @ videos.unit_video_BD.T
        x_ALB = unit_word_ALD @ videos.unit_video_BD.T
        if videos.column_CD is not None:
            z_ALC = (texts.mapped_word_ALD.flatten(0, 1) @ videos.column_CD.T).unflatten(0, (a, length))
            y_AC = texts.unit_sentence_AD @ videos.column_CD.T
            words_PLL, frames_PFF = (torch.stack([self.get_parameter(name) for name in names]) for names in (OVER_WORDS, OVER_FRAMES))
            cosines = z_ALC, y_AC, x_ALB
            scores_SAB = aggregate_pairs(*cosines, texts.mask_AL.sum(dim=1), videos.counts_BF, words_PLL, frames_PFF, kappa)
            return picked(torch.cat([video_sentence_AB[None], scores_SAB]), self.chosen)

        video_word_AB = aggregate(x_ALB.transpose(1, 2), mask_A1L, matrix("P1", length), kappa)
        y_ABF = self.execution.product(texts.unit_sentence_AD, flat_RD).view(a, b, frames)
        sentence_frame_AB = aggregate(y_ABF, mask_1BF, matrix("P2", frames), kappa)

        z_ABLF = self.execution.product(texts.mapped_word_ALD.flatten(0, 1), flat_RD).view(a, length, b, frames).transpose(1, 2)
        over_words_ABF = aggregate(z_ABLF.transpose(-1, -2), mask_A1L[..., None, :], matrix("P3", length), kappa)
        first_AB = aggregate(over_words_ABF, mask_1BF, matrix("P4", frames), kappa)
        over_frames_ABL = aggregate(z_ABLF, mask_1BF[..., None, :], matrix("P5", frames), kappa)
        second_AB = aggregate(over_frames_ABL, mask_A1L, matrix("P6", length), kappa)
        return picked(torch.stack([video_sentence_AB, video_word_AB, sentence_frame_AB, (first_AB + second_AB) / 2]), self.chosen)

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d = self.config.dimension
        # Products of sentence and words with the video feature and with every frame.
        flops = 2 * d * (1 + words + frames + words * frames)
        over_words, over_frames = aggregate_flops(words), aggregate_flops(frames)
        # P1, P2, P4 and P6 once; P3 once per frame, P5 once per word.
        return flops + (2 + frames) * over_words + (2 + words) * over_frames


def _compiled(features: Tensor) -> bool:
    """Whether the compiled loops serve these features: in training alone."""
    return compilable(features) and not constant_shapes(features)
