"""The local half of GLCCL (arXiv 2605.17959, GLIM): each word guides the frames into a feature of its own."""

from typing import ClassVar

from train_head.heads.base import SCORES
from train_head.heads.glccl import GlcclHead


class GlimLocalHead(GlcclHead):
    """The sentence-frame and word-frame scores, with M_l and P2 ... P6."""

    NAMES: ClassVar[tuple[str, ...]] = SCORES[2:]
