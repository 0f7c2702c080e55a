"""The heads, which turn cached features into scores. Training, evaluation and search use only the names exported here."""

from data.base.errors import UserError
from train_head.batches import TextBatch, VideoBatch
from train_head.heads.base import (
    ALL_SCORES,
    DEFAULT_EXECUTION,
    Execution,
    FrameWeights,
    Head,
    HeadConfig,
    check_temporal,
    chosen_scores,
    unit,
    unit_mean,
)
from train_head.heads.glccl import HALVES, GlcclHead
from train_head.heads.glscl import GlsclHead
from train_head.heads.mean import MeanHead
from train_head.heads.own import is_own, make_own, own_class, source_file, source_sha256
from train_head.heads.pairs.joint import JointHead
from train_head.heads.pairs.pairwise import PairwiseHead
from train_head.heads.pairs.tight import TightHead
from train_head.heads.tmass import TmassHead
from train_head.heads.tmvm import TmvmFramesHead, TmvmHead
from train_head.heads.tokenwise import DpHead, MeanMaxSimHead, TiHead, WtiHead
from train_head.heads.ts2 import Ts2Head
from train_head.heads.xclip import XclipHead
from train_head.heads.xpool import XpoolHead
from train_head.kernels.blocks import TextBlock, VideoBlock

__all__ = [
    "ALL_SCORES",
    "DEFAULT_EXECUTION",
    "HEADS",
    "Execution",
    "FrameWeights",
    "Head",
    "HeadConfig",
    "PairwiseHead",
    "TextBatch",
    "TextBlock",
    "VideoBatch",
    "VideoBlock",
    "check_temporal",
    "chosen_scores",
    "has_decorrelation",
    "head_class",
    "is_own",
    "make_head",
    "pairwise_heads",
    "source_file",
    "source_sha256",
    "unit",
    "unit_mean",
]

HEADS: dict[str, type[Head]] = {
    "glccl": GlcclHead,
    **dict.fromkeys(HALVES, GlcclHead),
    "mean": MeanHead,
    "tight": TightHead,
    "joint": JointHead,
    "xclip": XclipHead,
    "dp": DpHead,
    "ti": TiHead,
    "wti": WtiHead,
    "meanmaxsim": MeanMaxSimHead,
    "xpool": XpoolHead,
    "tmass": TmassHead,
    "glscl": GlsclHead,
    "ts2": Ts2Head,
    "tmvm": TmvmHead,
    "tmvm-frames": TmvmFramesHead,
}


def head_class(name: str) -> type[Head]:
    """The class of a head, by its name in HEADS or as package.module:Class. Raises UserError if there is none."""
    if is_own(name):
        return own_class(name)
    if name not in HEADS:
        raise UserError(f"--head {name} is unknown: choose one of {', '.join(HEADS)}, or name a class of your own as package.module:Class")
    return HEADS[name]


def has_decorrelation(name: str) -> bool:
    """Whether a head, by its --head name, has the loss `Head.decorrelation`: those of ours that read words and are trained on all pairs of
    a batch, and a class that defines it."""
    kind = head_class(name)
    return kind.decorrelation is not Head.decorrelation if is_own(name) else kind.READS_WORDS and not issubclass(kind, PairwiseHead)


def pairwise_heads() -> list[str]:
    """The names of our heads whose work is in the pairs, which score by candidates."""
    return [name for name, kind in HEADS.items() if issubclass(kind, PairwiseHead)]


def make_head(name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> Head:
    """An untrained head, by its name in HEADS or as package.module:Class.

    The learned matrices of ours start at the identity, and the temporal encoder at random. Raises UserError for an unknown name or a class
    that is not a working head.
    """
    return make_own(name, config, execution) if is_own(name) else head_class(name)(name, config, execution)
