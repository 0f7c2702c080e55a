"""The heads, which turn cached features into scores. Training, evaluation and search use only the names exported here."""

from train_head.batches import TextBatch, VideoBatch
from train_head.heads.base import ALL_SCORES, DEFAULT_EXECUTION, Execution, FrameWeights, Head, HeadConfig, chosen_scores
from train_head.heads.glccl import HALVES, GlcclHead
from train_head.heads.mean import MeanHead
from train_head.heads.wti import WtiHead
from train_head.heads.xclip import XclipHead
from train_head.heads.xpool import XpoolHead

__all__ = [
    "ALL_SCORES",
    "DEFAULT_EXECUTION",
    "HEADS",
    "Execution",
    "FrameWeights",
    "Head",
    "HeadConfig",
    "TextBatch",
    "VideoBatch",
    "chosen_scores",
    "make_head",
]

HEADS: dict[str, type[Head]] = {
    "glccl": GlcclHead,
    **dict.fromkeys(HALVES, GlcclHead),
    "mean": MeanHead,
    "xclip": XclipHead,
    "wti": WtiHead,
    "xpool": XpoolHead,
}


def make_head(name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> Head:
    """An untrained head, by its name in HEADS: learned matrices at the identity, the temporal encoder at random."""
    return HEADS[name](name, config, execution)
