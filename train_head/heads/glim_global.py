"""The global half of GLCCL (arXiv 2605.17959, GLIM): the sentence guides the frames into one feature of the video."""

from typing import ClassVar

from train_head.heads.base import SCORES
from train_head.heads.glccl import GlcclHead


class GlimGlobalHead(GlcclHead):
    """The video-sentence and video-word scores, with M_g and P1."""

    NAMES: ClassVar[tuple[str, ...]] = SCORES[:2]
