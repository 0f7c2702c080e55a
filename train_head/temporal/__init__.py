"""The temporal encoders, and the Transformer blocks that they share with heads."""

from train_head.temporal.encoders import SeqLstm, SeqTransf, TemporalEncoder, make_encoder
from train_head.temporal.start import check_rows, clip_positions, heads_for, make_blocks, misfit, more_rows
from train_head.temporal.transformer import Block, PositionedBlocks

__all__ = [
    "Block",
    "PositionedBlocks",
    "SeqLstm",
    "SeqTransf",
    "TemporalEncoder",
    "check_rows",
    "clip_positions",
    "heads_for",
    "make_blocks",
    "make_encoder",
    "misfit",
    "more_rows",
]
