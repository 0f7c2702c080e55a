"""How position tables and Transformer blocks start: from CLIP's text tower, or at random.

Shape suffixes: D joint dimension, R added positions, P CLIP's positions.
"""

from collections.abc import Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor

from data.base.errors import UserError
from data.cache import ClipParts
from train_head.temporal.transformer import BLOCKS, PositionedBlocks

USUAL_POSITIONS = 77
"""Positions where those of CLIP are unknown: as many as OpenAI's CLIP has."""
MOST_ROWS = 16_384
"""Most positions, and rows of matrices over frames: more than four hours at a frame per second. A matrix of this size takes 1 GiB."""
_ACTIVATIONS = ("QuickGELU", "GELU")

Blocks = TypeVar("Blocks", bound=PositionedBlocks)


def load_clip(blocks: PositionedBlocks, tensors: Mapping[str, Tensor]) -> None:
    """Load the first blocks of CLIP's text tower and its positions. The rows beyond CLIP's are drawn like CLIP's: see `more_rows`."""
    clip_PD = tensors["positional_embedding"]
    added_RD = more_rows(clip_PD, len(blocks.positional_embedding) - len(clip_PD))
    blocks.load_state_dict({**tensors, "positional_embedding": torch.cat([clip_PD, added_RD])})


def more_rows(clip_PD: Tensor, count: int) -> Tensor:
    """Rows [count, D] that continue a position table, drawn from the normal distribution of its rows (each dimension's mean and deviation).

    CLIP's own rows stay as they are, so that a video with no more frames than CLIP has positions is encoded as without the added rows;
    stretching the table over all frames would move them. The added rows look like positions to CLIP's blocks and differ from each other, so
    that their order can be learned. Hewitt (2021, "Initializing New Word Embeddings for Pretrained Language Models") argues for the same
    with new words. The draw depends on torch's seed and does not advance torch's generator.
    """
    generator = torch.Generator().manual_seed(torch.initial_seed())
    noise_RD = torch.randn(count, clip_PD.shape[1], generator=generator)
    return clip_PD.mean(dim=0) + clip_PD.std(dim=0, correction=0) * noise_RD


def heads_for(dimension: int) -> int:
    """CLIP's number of attention heads, one per 64 dimensions; or the most below that which divide the dimension."""
    return next(heads for heads in range(max(1, dimension // 64), 0, -1) if dimension % heads == 0)


def clip_positions(parts: ClipParts) -> int:
    """The number of positions of CLIP's text tower; USUAL_POSITIONS if the cache does not hold them."""
    positions = parts.tensors.get("positional_embedding")
    return USUAL_POSITIONS if positions is None else len(positions)


def misfit(dimension: int, parts: ClipParts) -> str:
    """Why CLIP's text blocks cannot start blocks over features of this dimension, in words; empty if they can."""
    positions = parts.tensors.get("positional_embedding")
    if positions is None or not any(name.startswith("blocks.") for name in parts.tensors):
        return "the cache holds no text blocks of a CLIP"
    if positions.shape[1] != dimension:
        return f"the text blocks of the cache's CLIP are {positions.shape[1]:,} wide, and features {dimension:,}"
    if parts.activation not in _ACTIVATIONS or parts.heads < 1 or dimension % parts.heads:
        return f"the text blocks of the cache's CLIP have {parts.heads} heads and activation {parts.activation}"
    with torch.device("meta"):
        own = PositionedBlocks(dimension, len(positions), parts.heads, parts.activation).state_dict()
    if {name: tuple(value.shape) for name, value in own.items()} != {name: value.shape for name, value in parts.tensors.items()}:
        return f"the first {BLOCKS} text blocks of the cache's CLIP are not plain Transformer blocks"
    return ""


def check_rows(rows: int, what: str) -> None:
    """Raise UserError if `what` would need more rows, one for each frame, than memory is likely to hold."""
    if rows > MOST_ROWS:
        raise UserError(f"{what} would take {rows:,} frames, and {MOST_ROWS:,} is the most: use --max-frames {MOST_ROWS} or less")


def make_blocks(kind: type[Blocks], dimension: int, parts: ClipParts, initial: Literal["clip", "random"], positions: int) -> Blocks:
    """Blocks of class `kind` with `positions` positions, started from CLIP's text blocks ("clip") or at random ("random").

    Raises UserError if CLIP's text blocks do not fit.
    """
    if initial == "random":
        return kind(dimension, positions, heads_for(dimension), "QuickGELU")
    why = misfit(dimension, parts)
    if why:
        raise UserError(f"--temporal-init clip: {why}: use --temporal-init random")
    blocks = kind(dimension, positions, parts.heads, parts.activation)
    load_clip(blocks, {name: torch.from_numpy(value) for name, value in parts.tensors.items()})
    return blocks
