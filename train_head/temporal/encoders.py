"""The temporal encoder ("seqTransf"): four CLIP Transformer blocks over a video's frames, with a residual connection around them.

Shape suffixes: B videos, F frames, D joint dimension.
"""

from torch import Tensor

from train_head.temporal.transformer import PositionedBlocks


class TemporalEncoder(PositionedBlocks):
    """v = u + Transformer(u + position). Attention ignores padded frames."""

    def forward(self, frame_BFD: Tensor, mask_BF: Tensor) -> Tensor:
        x_BFD = frame_BFD + self.positional_embedding[: frame_BFD.shape[1]]
        for block in self.blocks:
            x_BFD = block(x_BFD, mask_BF)
        return frame_BFD + x_BFD
