"""GLCCL: text-guided video and frame features, and four scores (arXiv 2605.17959)."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from train_head.batches import TextBatch, VideoBatch
from train_head.fused import FEW_ROWS, ROWS, LanedVideos, TiledTexts, fused_score, lane_videos, tile_texts
from train_head.glim import frame_weights
from train_head.heads.base import SCORES, FrameWeights, Head, HeadConfig, chosen_scores
from train_head.plain import Frames, Guides, prepare_texts, prepare_videos, score

# Texts are scored in blocks of like length: padding a text costs work that grows with the square of its length.
TEXTS_A_BLOCK = 16
MATRICES = {
    "video-sentence": ("M_g",),
    "video-word": ("P1",),
    "sentence-frame": ("P2",),
    "word-frame": ("M_l", "P3", "P4", "P5", "P6"),
}
"""The learned matrices that each score reads."""

GUIDE = {"video-sentence": "sentence", "video-word": "sentence", "sentence-frame": "word", "word-frame": "word"}
"""What of a text weighs the frames for each score."""

Block = tuple[Tensor, Guides]
"""Some texts of a batch, by their rows in it, padded to the longest of them."""


class GlcclHead(Head):
    """The method: GLIM's four scores with learned matrices M_g, M_l [D, D] and P1 ... P6 [max_words, max_words].

    All four are made, whichever are asked for: in one compiled pass they share nearly all of their work.
    """

    NAMES: ClassVar[tuple[str, ...]] = SCORES

    def __init__(self, name: str, config: HeadConfig) -> None:
        super().__init__(name, config)
        self.chosen = [SCORES.index(self.NAMES[i]) for i in chosen_scores(config.scores, self.NAMES)]
        trained = {matrix for i in self.chosen for matrix in MATRICES[SCORES[i]]}
        for matrix in sorted(matrix for matrices in MATRICES.values() for matrix in matrices):
            identity = torch.eye(config.dimension if matrix.startswith("M") else config.max_words)
            if matrix in trained:
                self.register_parameter(matrix, nn.Parameter(identity))
            else:
                self.register_buffer(matrix, identity, persistent=False)

    def matrices(self) -> dict[str, Tensor]:
        """The matrices by their names in the method; those that none of the chosen scores reads stay at the identity."""
        return {name: getattr(self, name) for names in MATRICES.values() for name in names}

    def encode_texts(self, batch: TextBatch) -> list[Block] | TiledTexts:
        if _compiled(batch.sentence_AD):
            return tile_texts(batch, self.matrices(), torch.get_num_threads(), FEW_ROWS if self.few_texts else ROWS)
        return [
            (rows, prepare_texts(sentence_AD, word_ALD, mask_AL, self.matrices()))
            for rows, sentence_AD, word_ALD, mask_AL in by_length(batch)
        ]

    def encode_frames(self, batch: VideoBatch) -> Frames | LanedVideos:
        return lane_videos(batch) if _compiled(batch.frame_BFD) else prepare_videos(batch.frame_BFD, batch.mask_BF)

    def scores(self, texts: list[Block] | TiledTexts, videos: Frames | LanedVideos) -> Tensor:
        if isinstance(texts, TiledTexts):
            assert isinstance(videos, LanedVideos), "texts and videos were on different devices"
            threads, products = torch.get_num_threads(), self.products or torch.float32
            return self._choose(fused_score(texts, videos, self.matrices(), threads, products=products)) * self.scale()
        assert isinstance(videos, Frames), "texts and videos were on different devices"
        scored = [(rows, score(guides, videos, self.matrices(), products=self.products)) for rows, guides in texts]
        return self._choose(in_batch_order(scored)) * self.scale()

    def frame_weights(self, texts: TextBatch, videos: VideoBatch) -> FrameWeights:
        word_ALD = pad_sequence(texts.word_RD.split(texts.length_A.tolist()), batch_first=True)
        mask_AL = (torch.arange(word_ALD.shape[1]) < texts.length_A[:, None]).to(word_ALD.device)
        alpha_ABF, beta_ABLF = frame_weights(texts.sentence_AD, word_ALD, mask_AL, self.frames_in_time(videos), videos.mask_BF)
        read = {GUIDE[SCORES[i]] for i in self.chosen}
        return FrameWeights(alpha_ABF if "sentence" in read else None, beta_ABLF if "word" in read else None)

    def _choose(self, score_SAB: Tensor) -> Tensor:
        return score_SAB if len(self.chosen) == len(SCORES) else score_SAB[self.chosen]

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d = self.config.dimension
        # Words and the sentence, raw and mapped, with every frame; their guided norms through the Gram matrix.
        flops = (words + 1) * (4 * frames * d + 2 * frames**2 + 2 * frames)
        # Guided dot products: of the sentence, x and y of every word, Z of every two.
        flops += 2 * frames + 4 * words * frames + 2 * words**2 * frames
        # P1, P2, P4 and P6 aggregate over the words once, P3 and P5 for every word.
        return flops + (4 + 2 * words) * aggregate_flops(words)


def aggregate_flops(length: NDArray[np.float64]) -> NDArray[np.float64]:
    """agg(x; P) over so many similarities: weights times P, and their dot product with x."""
    return 2 * length**2 + 2 * length


def _compiled(features: Tensor) -> bool:
    """Whether the compiled loops take these features."""
    return features.device.type == "cpu" and features.dtype == torch.float32


def by_length(batch: TextBatch) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Texts of like length together: their rows in the batch, sentences [A, D], words [A, L, D] and mask [A, L]."""
    first_A = batch.length_A.cumsum(dim=0) - batch.length_A
    blocks = []
    for rows in batch.length_A.argsort(stable=True).split(TEXTS_A_BLOCK):
        position_L = torch.arange(int(batch.length_A[rows].max()))
        mask_AL = position_L < batch.length_A[rows, None]
        # Behind its end a text repeats its last word; the mask tells.
        word_AL = first_A[rows, None] + torch.minimum(position_L, batch.length_A[rows, None] - 1)
        device = batch.word_RD.device
        blocks.append((rows, batch.sentence_AD[rows.to(device)], batch.word_RD[word_AL.to(device)], mask_AL.to(device)))
    return blocks


def in_batch_order(scored: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Scores [S, A, B] of blocks of texts, each with its rows in the batch, in the order of the batch."""
    order_A = torch.cat([rows for rows, _ in scored])
    score_SAB = torch.cat([part_SAB for _, part_SAB in scored], dim=1)
    return score_SAB[:, order_A.argsort().to(score_SAB.device)]
