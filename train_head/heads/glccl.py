"""GLCCL: text-guided video and frame features, and four scores (arXiv 2605.17959)."""

import torch
from torch import Tensor, nn

from train_head.batches import TextBatch, VideoBatch
from train_head.fused import LanedVideos, TiledTexts, fused_score, lane_videos, tile_texts
from train_head.glim import Frames, Guides, prepare_texts, prepare_videos, score
from train_head.heads.base import Head, HeadConfig

# Texts are scored in blocks of like length: padding a text costs work that grows with the square of its length.
TEXTS_A_BLOCK = 16

Block = tuple[Tensor, Guides]
"""Some texts of a batch, by their rows in it, padded to the longest of them."""


class GlcclHead(Head):
    """The method: GLIM's four scores with learned matrices M_g, M_l [D, D] and P1 ... P6 [max_words, max_words]."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        for name in ("M_g", "M_l"):
            self.register_parameter(name, nn.Parameter(torch.eye(config.dimension)))
        for i in range(1, 7):
            self.register_parameter(f"P{i}", nn.Parameter(torch.eye(config.max_words)))

    def matrices(self) -> dict[str, Tensor]:
        """The learned matrices by their names in the method."""
        return {name: self.get_parameter(name) for name in ("M_g", "M_l", "P1", "P2", "P3", "P4", "P5", "P6")}

    def encode_texts(self, batch: TextBatch) -> list[Block] | TiledTexts:
        if _compiled(batch.sentence_AD):
            return tile_texts(batch, self.matrices(), torch.get_num_threads())
        return [
            (rows, prepare_texts(sentence_AD, word_ALD, mask_AL, self.matrices()))
            for rows, sentence_AD, word_ALD, mask_AL in by_length(batch)
        ]

    def encode_videos(self, batch: VideoBatch) -> Frames | LanedVideos:
        in_time = VideoBatch(self.frames_in_time(batch), batch.mask_BF)
        return lane_videos(in_time) if _compiled(batch.frame_BFD) else prepare_videos(in_time.frame_BFD, in_time.mask_BF)

    def scores(self, texts: list[Block] | TiledTexts, videos: Frames | LanedVideos) -> Tensor:
        if isinstance(texts, TiledTexts):
            assert isinstance(videos, LanedVideos), "texts and videos were on different devices"
            return (
                fused_score(texts, videos, self.matrices(), torch.get_num_threads(), products=self.products or torch.float32) * self.scale()
            )
        assert isinstance(videos, Frames), "texts and videos were on different devices"
        by_length_SAB = torch.cat([score(guides, videos, self.matrices(), products=self.products) for _, guides in texts], dim=1)
        order_A = torch.cat([rows for rows, _ in texts])
        return by_length_SAB[:, order_A.argsort().to(by_length_SAB.device)] * self.scale()


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
