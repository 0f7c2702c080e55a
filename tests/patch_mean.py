"""A head of one's own that reads patch tokens: `zero-shot:tests.patch_mean:PatchMean`.

Shape suffixes: B videos, M patch tokens of a frame.
"""

from typing import ClassVar

from torch import Tensor

from train_head.heads import VideoBlock, unit_mean
from train_head.heads.mean import MeanHead


class PatchMean(MeanHead):
    """Head mean, of all patch tokens in place of the frames."""

    READS_PATCHES: ClassVar[bool] = True

    def encode_video_block(self, block: VideoBlock) -> Tensor:
        patch_BFMD = block.frames.patch_BFMD
        assert patch_BFMD is not None
        assert patch_BFMD.shape[2] == self.config.patches
        return unit_mean(patch_BFMD.flatten(1, 2), block.frames.mask_BF.repeat_interleave(self.config.patches, dim=1))
