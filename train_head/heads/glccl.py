"""GLCCL: text-guided video and frame features, and four scores (arXiv 2605.17959)."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from data.compute.staging import to_device
from train_head.batches import EncodedFrames, TextBatch, VideoBatch
from train_head.glim import frame_weights
from train_head.heads.base import (
    DEFAULT_EXECUTION,
    SCORES,
    AuthorsPadding,
    Execution,
    FrameWeights,
    Head,
    HeadConfig,
    aggregate_flops,
    picked,
)
from train_head.kernels.blocks import TextBlock, VideoBlock
from train_head.kernels.fused import FEW_ROWS, FEW_UNIT, ROWS, LanedVideos, TiledTexts, fused_score, lane_videos, tile_texts
from train_head.kernels.loops import compilable
from train_head.kernels.plain import Frames, Guides, prepare_texts, prepare_videos, score

MATRICES = {
    "video-sentence": ("M_g",),
    "video-word": ("P1",),
    "sentence-frame": ("P2",),
    "word-frame": ("M_l", "P3", "P4", "P5", "P6"),
}
"""The learned matrices that each score uses."""

GUIDE = {"video-sentence": "sentence", "video-word": "sentence", "sentence-frame": "word", "word-frame": "word"}
"""The part of a text that weighs the frames, for each score."""

HALVES = {"glim-global": SCORES[:2], "glim-local": SCORES[2:]}
"""Names of --head for one half of GLIM, each the same as glccl with these --scores.

In glim-global the sentence pools the frames into one feature. In glim-local every word pools them into a separate feature."""


class GlcclHead(Head):
    """The method: GLIM's four scores with learned matrices M_g, M_l [D, D] and P1 ... P6 [max_words, max_words].

    Always computes all four scores, then keeps the chosen ones: one compiled pass shares nearly all the work between them.

    The authors mask nothing but the keys of the temporal encoder. With their padding, padded words and frames count like real ones.
    """

    NAMES: ClassVar[tuple[str, ...]] = SCORES
    TEMPERATURES: ClassVar[tuple[str, ...]] = ("tau", "kappa")
    WORD_MATRICES: ClassVar[bool] = True
    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "counts"
    WORDS_PER_STRIP: ClassVar[int] = ROWS - 4
    """Slightly less than one tile of the compiled loops."""

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        self.chosen = [SCORES.index(score) for score in self.score_names()]
        trained = {matrix for i in self.chosen for matrix in MATRICES[SCORES[i]]}
        for matrix in sorted(matrix for matrices in MATRICES.values() for matrix in matrices):
            identity = torch.eye(config.dimension if matrix.startswith("M") else config.max_words)
            if matrix in trained:
                self.register_parameter(matrix, nn.Parameter(identity))
            else:
                self.register_buffer(matrix, identity, persistent=False)

    @classmethod
    def offered(cls, name: str) -> tuple[str, ...]:
        return HALVES.get(name, cls.NAMES)

    def matrices(self) -> dict[str, Tensor]:
        """The matrices by their names in the paper. Those that no chosen score uses stay at the identity."""
        return {name: getattr(self, name) for names in MATRICES.values() for name in names}

    def encode_texts(self, batch: TextBatch) -> Any:
        if compilable(batch.sentence_AD):
            rows, unit = (FEW_ROWS, FEW_UNIT) if self.execution.few_texts else (ROWS, ROWS)
            return tile_texts(self.positions(batch), self.matrices(), torch.get_num_threads(), rows, unit)
        return super().encode_texts(batch)

    def encode_frames(self, batch: EncodedFrames) -> Any:
        if compilable(batch.frame_BFD):
            return lane_videos(self._counted(batch), zeros_count=self.with_padding)
        return super().encode_frames(batch)

    def scores(self, texts: Any, videos: Any) -> Tensor:
        assert isinstance(texts, TiledTexts) == isinstance(videos, LanedVideos), "texts and videos were on different devices"
        if not isinstance(texts, TiledTexts):
            return super().scores(texts, videos)
        threads, products = torch.get_num_threads(), self.execution.products or torch.float32
        scores_SAB = fused_score(texts, videos, self.matrices(), threads, products=products, tau=self.config.tau, kappa=self.config.kappa)
        return self._choose(scores_SAB) * self.scale()

    def encode_text_block(self, block: TextBlock) -> Guides:
        mask_AL = torch.ones_like(block.mask_AL) if self.with_padding else block.mask_AL
        return prepare_texts(block.sentence_AD, block.word_ALD, mask_AL, self.matrices())

    def encode_video_block(self, block: VideoBlock) -> Frames:
        frames = self._counted(block.frames)
        return prepare_videos(frames.frame_BFD, frames.mask_BF, zeros_count=self.with_padding)

    def score_block(self, texts: Guides, videos: Frames) -> Tensor:
        config = self.config
        scores_SAB = score(texts, videos, self.matrices(), products=self.execution.products, tau=config.tau, kappa=config.kappa)
        return self._choose(scores_SAB)

    def frame_weights(self, texts: TextBatch, videos: VideoBatch) -> FrameWeights:
        texts = texts.without_padding()
        word_ALD = pad_sequence(texts.word_RD.split(texts.length_A.tolist()), batch_first=True)
        mask_AL = to_device(torch.arange(word_ALD.shape[1]) < texts.length_A[:, None], word_ALD.device)
        frames = self._counted(self.apply_temporal(videos))
        given = (texts.sentence_AD, word_ALD, mask_AL, frames.frame_BFD, frames.mask_BF)
        alpha_ABF, beta_ABLF = frame_weights(*given, tau=self.config.tau, zeros_count=self.with_padding)
        if self.with_padding:
            # The weights of padding are left out, not shared out.
            own = videos.mask_BF.shape[1]
            alpha_ABF = alpha_ABF[..., :own].masked_fill(~videos.mask_BF, 0.0)
            beta_ABLF = beta_ABLF[..., :own].masked_fill(~videos.mask_BF[:, None], 0.0)
        read = {GUIDE[SCORES[i]] for i in self.chosen}
        return FrameWeights(alpha_ABF if "sentence" in read else None, beta_ABLF if "word" in read else None)

    def _counted(self, batch: EncodedFrames) -> EncodedFrames:
        """The videos with True in their masks at all frames that count."""
        return replace(batch, mask_BF=torch.ones_like(batch.mask_BF)) if self.with_padding else batch

    def _choose(self, score_SAB: Tensor) -> Tensor:
        return picked(score_SAB, self.chosen)

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d = self.config.dimension
        # Products of words and sentence, raw and mapped, with every frame; norms of guided features from the Gram matrix.
        flops = (words + 1) * (4 * frames * d + 2 * frames**2 + 2 * frames)
        # Guided dot products: one for the sentence, x and y for every word, Z for every pair of words.
        flops += 2 * frames + 4 * words * frames + 2 * words**2 * frames
        # P1, P2, P4 and P6 aggregate over words once, P3 and P5 once per word.
        return flops + (4 + 2 * words) * aggregate_flops(words)
