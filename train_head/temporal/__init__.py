"""The temporal encoders, and the Transformer blocks that they share with heads."""

from train_head.temporal.encoders import TemporalEncoder
from train_head.temporal.start import check_rows, clip_positions, heads_for, make_temporal, misfit, more_rows
from train_head.temporal.transformer import Block, PositionedBlocks

__all__ = [
    "Block",
    "PositionedBlocks",
    "TemporalEncoder",
    "check_rows",
    "clip_positions",
    "heads_for",
    "make_temporal",
    "misfit",
    "more_rows",
]
