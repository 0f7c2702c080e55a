"""The temporal encoder ("seqTransf"): four CLIP Transformer blocks over a video's frames, with a residual connection around them.

Shape suffixes: B videos, F frames, D joint dimension, H heads, R frames of all videos or added positions, P CLIP's positions, E any
other width.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention, silu

from data.base.errors import UserError
from data.cache import ClipParts

BLOCKS = 4
QUICK = 1.702
"""QuickGELU(x) = x * sigmoid(QUICK * x)."""
NORM_EPSILON = 1e-12
"""Epsilon of the LayerNorms. CLIP uses 1e-5; CLIP4Clip's temporal encoder and its successors use BERT's 1e-12."""
USUAL_POSITIONS = 77
"""Positions where those of CLIP are unknown: as many as OpenAI's CLIP has."""
MOST_ROWS = 16_384
"""Most positions, and rows of matrices over frames: more than four hours at a frame per second. A matrix of this size takes 1 GiB."""
_ACTIVATIONS = ("QuickGELU", "GELU")


class FeedForward(nn.Module):
    """The MLP after the attention, with QuickGELU (as in OpenAI's CLIP) or GELU."""

    def __init__(self, dimension: int, activation: str) -> None:
        super().__init__()
        self.quick = activation == "QuickGELU"
        self.c_fc = nn.Linear(dimension, 4 * dimension)
        self.c_proj = nn.Linear(4 * dimension, dimension)

    def forward(self, x_BFD: Tensor) -> Tensor:
        if not self.quick:
            out: Tensor = self.c_proj(gelu(self.c_fc(x_BFD)))
            return out
        # QuickGELU(x) = silu(1.702 x) / 1.702, and addmm scales by a factor for free.
        hidden_RE = silu(torch.addmm(self.c_fc.bias, x_BFD.flatten(0, 1), self.c_fc.weight.T, beta=QUICK, alpha=QUICK))
        return torch.addmm(self.c_proj.bias, hidden_RE, self.c_proj.weight.T, alpha=1 / QUICK).view_as(x_BFD)


class Block(nn.Module):
    """A pre-norm Transformer block with CLIP's parameter names, so that CLIP's weights load directly."""

    def __init__(self, dimension: int, heads: int, activation: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dimension, eps=NORM_EPSILON)
        self.attn = nn.MultiheadAttention(dimension, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(dimension, eps=NORM_EPSILON)
        self.mlp = FeedForward(dimension, activation)

    def forward(self, x_BFD: Tensor, mask_BF: Tensor) -> Tensor:
        x_BFD = x_BFD + self._attend(self.ln_1(x_BFD), mask_BF)
        out: Tensor = x_BFD + self.mlp(self.ln_2(x_BFD))
        return out

    def _attend(self, x_BFD: Tensor, mask_BF: Tensor) -> Tensor:
        """Equal to `nn.MultiheadAttention`'s forward, which copies queries, keys, values and their gradients once more."""
        attn = self.attn
        qkv_BFE = linear(x_BFD, attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = qkv_BFE.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        mixed_BHFE = scaled_dot_product_attention(query, key, value, attn_mask=mask_BF[:, None, None])
        out: Tensor = attn.out_proj(mixed_BHFE.transpose(1, 2).flatten(2))
        return out


class TemporalEncoder(nn.Module):
    """v = u + Transformer(u + position). Attention ignores padded frames."""

    def __init__(self, dimension: int, positions: int, heads: int, activation: str) -> None:
        super().__init__()
        self.heads, self.activation = heads, activation
        self.positional_embedding = nn.Parameter(torch.empty(positions, dimension))
        self.blocks = nn.ModuleList(Block(dimension, heads, activation) for _ in range(BLOCKS))
        self._initialise()

    def shape(self) -> dict[str, Any]:
        """The fields of `HeadConfig` that describe this encoder."""
        return {
            "temporal_positions": len(self.positional_embedding),
            "temporal_heads": self.heads,
            "temporal_activation": self.activation,
        }

    def _initialise(self) -> None:
        """CLIP's random initialisation (Radford et al. 2021)."""
        dimension = self.positional_embedding.shape[1]
        nn.init.normal_(self.positional_embedding, std=0.01)
        for name, parameter in self.blocks.named_parameters():
            if parameter.ndim == 2:
                deep = "out_proj" in name or "c_proj" in name
                scale = dimension if "c_fc" not in name else 2 * dimension
                nn.init.normal_(parameter, std=scale**-0.5 * ((2 * BLOCKS) ** -0.5 if deep else 1.0))
            elif "ln_" not in name:
                nn.init.zeros_(parameter)

    def load_clip(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the first blocks of CLIP's text tower and its positions. The rows beyond CLIP's are drawn like CLIP's: see `more_rows`."""
        clip_PD = tensors["positional_embedding"]
        added_RD = more_rows(clip_PD, len(self.positional_embedding) - len(clip_PD))
        self.load_state_dict({**tensors, "positional_embedding": torch.cat([clip_PD, added_RD])})

    def forward(self, frame_BFD: Tensor, mask_BF: Tensor) -> Tensor:
        x_BFD = frame_BFD + self.positional_embedding[: frame_BFD.shape[1]]
        for block in self.blocks:
            x_BFD = block(x_BFD, mask_BF)
        return frame_BFD + x_BFD


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
    """Why CLIP's text blocks cannot be those of the temporal encoder, in words; empty if they can."""
    positions = parts.tensors.get("positional_embedding")
    if positions is None or not any(name.startswith("blocks.") for name in parts.tensors):
        return "the cache holds no text blocks of a CLIP"
    if positions.shape[1] != dimension:
        return f"the text blocks of the cache's CLIP are {positions.shape[1]:,} wide, and features {dimension:,}"
    if parts.activation not in _ACTIVATIONS or parts.heads < 1 or dimension % parts.heads:
        return f"the text blocks of the cache's CLIP have {parts.heads} heads and activation {parts.activation}"
    with torch.device("meta"):
        own = TemporalEncoder(dimension, len(positions), parts.heads, parts.activation).state_dict()
    if {name: tuple(value.shape) for name, value in own.items()} != {name: value.shape for name, value in parts.tensors.items()}:
        return f"the first {BLOCKS} text blocks of the cache's CLIP are not plain Transformer blocks"
    return ""


def check_rows(rows: int, what: str) -> None:
    """Raise UserError if `what` would need more rows, one for each frame, than memory is likely to hold."""
    if rows > MOST_ROWS:
        raise UserError(f"{what} would take {rows:,} frames, and {MOST_ROWS:,} is the most: use --max-frames {MOST_ROWS} or less")


def make_temporal(dimension: int, parts: ClipParts, initial: Literal["clip", "random"], positions: int) -> TemporalEncoder:
    """A temporal encoder for videos of up to `positions` frames, initialised from CLIP's text blocks ("clip") or at random ("random").

    Raises UserError if CLIP's text blocks do not fit, or for more positions than MOST_ROWS.
    """
    check_rows(positions, "the temporal encoder")
    if initial == "random":
        return TemporalEncoder(dimension, positions, heads_for(dimension), "QuickGELU")
    why = misfit(dimension, parts)
    if why:
        raise UserError(f"--temporal-init clip: {why}: use --temporal-init random or --temporal none")
    encoder = TemporalEncoder(dimension, positions, parts.heads, parts.activation)
    encoder.load_clip({name: torch.from_numpy(value) for name, value in parts.tensors.items()})
    return encoder
