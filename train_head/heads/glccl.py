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
"""Some texts of a batch, by their rows in it, cut to the longest of them."""


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

    def _fused(self) -> bool:
        """Whether to score by the compiled loop: it runs on the CPU and has no gradient."""
        return self.logit_scale.device.type == "cpu" and not torch.is_grad_enabled()

    def encode_texts(self, batch: TextBatch) -> list[Block] | TiledTexts:
        if self._fused():
            return tile_texts(batch)
        length_A = batch.mask_AL.sum(dim=1)
        blocks = []
        for rows in length_A.argsort(stable=True).split(TEXTS_A_BLOCK):
            length = int(length_A[rows].max())
            mask_AL = batch.mask_AL[rows, :length]
            blocks.append((rows, prepare_texts(batch.sentence_AD[rows], batch.word_ALD[rows, :length], mask_AL, self.matrices())))
        return blocks

    def encode_videos(self, batch: VideoBatch) -> Frames | LanedVideos:
        videos = prepare_videos(self.frames_in_time(batch), batch.mask_BF)
        return lane_videos(videos) if self._fused() else videos

    def scores(self, texts: list[Block] | TiledTexts, videos: Frames | LanedVideos) -> Tensor:
        matrices = self.matrices()
        if isinstance(texts, TiledTexts):
            assert isinstance(videos, LanedVideos), "texts and videos were encoded in different modes"
            return fused_score(texts, videos, matrices) * self.scale()
        assert isinstance(videos, Frames), "texts and videos were encoded in different modes"
        by_length_SAB = torch.cat([score(guides, videos, matrices) for _, guides in texts], dim=1)
        order_A = torch.cat([rows for rows, _ in texts])
        return by_length_SAB[:, order_A.argsort()] * self.scale()
