"""The heads: each turns cached features into scores; training, evaluation and search call nothing else of them."""

from train_head.batches import TextBatch, VideoBatch
from train_head.heads.base import Head, HeadConfig
from train_head.heads.glccl import GlcclHead
from train_head.heads.mean import MeanHead

__all__ = ["HEADS", "Head", "HeadConfig", "TextBatch", "VideoBatch", "make_head"]

HEADS: dict[str, type[Head]] = {"glccl": GlcclHead, "mean": MeanHead}


def make_head(config: HeadConfig) -> Head:
    """A head before training: learned matrices at the identity, the temporal encoder at random."""
    return HEADS[config.head](config)
