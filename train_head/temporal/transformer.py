"""CLIP's Transformer blocks with a table of positions: those of the temporal encoder "seqTransf".

Shape suffixes: B sequences, F and G positions of a sequence, D joint dimension, H heads, R rows of all sequences, E any other width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention, silu

from data.compute.shapes import filled_rows

BLOCKS = 4
"""CLIP4Clip's number of blocks."""
QUICK = 1.702
"""QuickGELU(x) = x * sigmoid(QUICK * x)."""
NORM_EPSILON = 1e-12
"""Epsilon of the LayerNorms. CLIP uses 1e-5; CLIP4Clip's temporal encoder and its successors use BERT's 1e-12."""


class FeedForward(nn.Module):
    """The MLP after the attention, with QuickGELU (as in OpenAI's CLIP) or GELU."""

    def __init__(self, dimension: int, activation: str, ratio: int = 4) -> None:
        super().__init__()
        self.quick = activation == "QuickGELU"
        self.c_fc = nn.Linear(dimension, ratio * dimension)
        self.c_proj = nn.Linear(ratio * dimension, dimension)

    def forward(self, x_BFD: Tensor) -> Tensor:
        if not self.quick:
            out: Tensor = self.c_proj(gelu(self.c_fc(x_BFD)))
            return out
        # QuickGELU(x) = silu(1.702 x) / 1.702, and addmm scales by a factor for free.
        hidden_RE = silu(torch.addmm(self.c_fc.bias, x_BFD.flatten(0, 1), self.c_fc.weight.T, beta=QUICK, alpha=QUICK))
        return torch.addmm(self.c_proj.bias, hidden_RE, self.c_proj.weight.T, alpha=1 / QUICK).view_as(x_BFD)


class Block(nn.Module):
    """A pre-norm Transformer block with CLIP's parameter names, so that CLIP's weights load directly. CLIP's MLPs have a `ratio` of 4."""

    def __init__(self, dimension: int, heads: int, activation: str, ratio: int = 4) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dimension, eps=NORM_EPSILON)
        self.attn = nn.MultiheadAttention(dimension, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(dimension, eps=NORM_EPSILON)
        self.mlp = FeedForward(dimension, activation, ratio)

    def forward(self, x_BFD: Tensor, mask_BF: Tensor) -> Tensor:
        """The block's output. `mask_BF` is True at the positions that attention may read."""
        return self.mixed(x_BFD, self.projected(x_BFD), mask_BF)

    def projected(self, x_BFD: Tensor) -> Tensor:
        """Queries, keys and values of the inputs [..., 3D]: the part of the block that treats every position by itself."""
        out: Tensor = linear(self.ln_1(x_BFD), self.attn.in_proj_weight, self.attn.in_proj_bias)
        return out

    def mixed(self, x_BFD: Tensor, qkv_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """The block's output, from its input and what is `projected` from that."""
        query_BFD, key_BFD, value_BFD = qkv_BFE.chunk(3, dim=-1)
        return self._output(x_BFD, self._attention(query_BFD, key_BFD, value_BFD, mask_BF))

    def first(self, x_BFD: Tensor, mask_BF: Tensor) -> Tensor:
        """The block's output at position 0 alone [B, D]."""
        normed_BFD = self.ln_1(x_BFD)
        sizes = [x_BFD.shape[-1], 2 * x_BFD.shape[-1]]
        weights, biases = self.attn.in_proj_weight.split(sizes), self.attn.in_proj_bias.split(sizes)
        # With rows that fill the products, which no other row depends on.
        query_BD = linear(filled_rows(normed_BFD[:, 0]), weights[0], biases[0])[: len(x_BFD)]
        key_BFD, value_BFD = linear(normed_BFD, weights[1], biases[1]).chunk(2, dim=-1)
        mixed_BD = self._attention(query_BD[:, None], key_BFD, value_BFD, mask_BF)[:, 0]
        return self._output(filled_rows(x_BFD[:, 0])[None], filled_rows(mixed_BD)[None])[0, : len(x_BFD)]

    def at(self, x_BFD: Tensor, mask_BF: Tensor, places: slice) -> Tensor:
        """The block's output at some positions alone."""
        query_BFD, key_BFD, value_BFD = self.projected(x_BFD).chunk(3, dim=-1)
        return self._output(x_BFD[:, places], self._attention(query_BFD[:, places], key_BFD, value_BFD, mask_BF))

    def _attention(self, query_BFD: Tensor, key_BGD: Tensor, value_BGD: Tensor, mask_BG: Tensor) -> Tensor:
        """What some positions F read of the positions G.

        It equals the attention of `nn.MultiheadAttention`, which copies queries, keys, values and their gradients once more.
        """
        query, key, value = (rows.unflatten(-1, (self.attn.num_heads, -1)).transpose(1, 2) for rows in (query_BFD, key_BGD, value_BGD))
        mixed_BHFE = scaled_dot_product_attention(query, key, value, attn_mask=mask_BG[:, None, None])
        return mixed_BHFE.transpose(1, 2).flatten(2)

    def _output(self, x_BFD: Tensor, mixed_BFD: Tensor) -> Tensor:
        """The outputs of some positions, from their inputs and what they read."""
        x_BFD = x_BFD + self.attn.out_proj(mixed_BFD)
        out: Tensor = x_BFD + self.mlp(self.ln_2(x_BFD))
        return out


class PositionedBlocks(nn.Module):
    """A table of positions and four blocks, which start at random. Subclasses and owners say what passes through them."""

    def __init__(self, dimension: int, positions: int, heads: int, activation: str) -> None:
        super().__init__()
        self.heads, self.activation = heads, activation
        self.positional_embedding = nn.Parameter(torch.empty(positions, dimension))
        self.blocks = nn.ModuleList(Block(dimension, heads, activation) for _ in range(BLOCKS))
        # CLIP's random initialisation (Radford et al. 2021).
        nn.init.normal_(self.positional_embedding, std=0.01)
        initialise_blocks(self.blocks)

    def in_order(self) -> list[Block]:
        """The blocks, first to last."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def shape(self) -> dict[str, Any]:
        """The fields of `HeadConfig` that describe the table and the blocks."""
        return {
            "temporal_positions": len(self.positional_embedding),
            "temporal_heads": self.heads,
            "temporal_activation": self.activation,
        }


def initialise_blocks(blocks: nn.ModuleList) -> None:
    """Start the matrices and biases of `Block`s as CLIP's random initialisation does (Radford et al. 2021)."""
    for name, parameter in blocks.named_parameters():
        if parameter.ndim == 2:
            deep = "out_proj" in name or "c_proj" in name
            dimension = parameter.shape[0] if deep else parameter.shape[1]
            scale = dimension if "c_fc" not in name else 2 * dimension
            nn.init.normal_(parameter, std=scale**-0.5 * ((2 * len(blocks)) ** -0.5 if deep else 1.0))
        elif "ln_" not in name:
            nn.init.zeros_(parameter)
