"""The temporal encoders of CLIP4Clip (Luo et al. 2021, "CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval"), by
their --temporal names. Both add a residual connection around what they compute from a video's frames.

Shape suffixes: B videos, F frames, D joint dimension, E any other width.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from train_head.temporal.transformer import PositionedBlocks


class TemporalEncoder(nn.Module, ABC):
    """Turns the frames u of videos [B, F, D] into v of the same shape.

    v of a real frame depends on the real frames of its own video alone. `mask_BF` is True at real frames, and may have holes.
    """

    @property
    @abstractmethod
    def most_frames(self) -> int | None:
        """The most frames of a video that it takes; None for any number."""

    @abstractmethod
    def forward(self, frame_BFD: Tensor, mask_BF: Tensor) -> Tensor:
        """The frames v."""


class SeqTransf(PositionedBlocks, TemporalEncoder):
    """CLIP4Clip's "seqTransf": v = u + Transformer(u + position). Attention ignores padded frames."""

    @property
    def most_frames(self) -> int:
        return len(self.positional_embedding)

    def forward(self, frame_BFD: Tensor, mask_BF: Tensor) -> Tensor:
        x_BFD = frame_BFD + self.positional_embedding[: frame_BFD.shape[1]]
        for block in self.blocks:
            x_BFD = block(x_BFD, mask_BF)
        return frame_BFD + x_BFD


class SeqLstm(TemporalEncoder):
    """CLIP4Clip's "seqLSTM": v = u + h, where h are the states of a one-way LSTM of width D over the real frames in their order.

    The state before the first frame is zero, and h is 0 at padded frames. The LSTM starts as torch's does, uniform within 1 / sqrt(D); the
    paper does not say how.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dimension, dimension)
        """Holds the weights under torch's names: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`."""

    @property
    def most_frames(self) -> None:
        return None

    def forward(self, frame_BFD: Tensor, mask_BF: Tensor) -> Tensor:
        # Real frames first. The states of the padded frames behind them reach no real frame.
        order_BF = (~mask_BF).to(torch.uint8).argsort(dim=1, stable=True)
        video_B1 = torch.arange(len(order_BF), device=order_BF.device)[:, None]
        state_BFD = self._states(frame_BFD[video_B1, order_BF])[video_B1, order_BF.argsort(dim=1)]
        return frame_BFD + state_BFD.masked_fill(~mask_BF[..., None], 0.0)

    def _states(self, x_BFD: Tensor) -> Tensor:
        """The LSTM's states at every step. A loop rather than `nn.LSTM`'s forward, which may choose its kernels by the number of videos."""
        of_input_ED, of_state_ED, input_bias_E, state_bias_E = self.lstm.all_weights[0]
        given_BFE = linear(x_BFD, of_input_ED, input_bias_E + state_bias_E)
        hidden_BD = cell_BD = torch.zeros_like(x_BFD[:, 0])
        states = []
        for given_BE in given_BFE.unbind(dim=1):
            # With autocast, products are in bfloat16, and the states stay in the frames' precision.
            gates_BE = (given_BE + linear(hidden_BD, of_state_ED)).to(x_BFD.dtype)
            into, forget, new, out = gates_BE.chunk(4, dim=1)
            cell_BD = forget.sigmoid() * cell_BD + into.sigmoid() * new.tanh()
            hidden_BD = out.sigmoid() * cell_BD.tanh()
            states.append(hidden_BD)
        return torch.stack(states, dim=1)


def make_encoder(name: str, dimension: int, positions: int, heads: int, activation: str) -> TemporalEncoder:
    """The encoder with this --temporal name, started at random. `seq-lstm` reads the dimension alone."""
    assert name in ("seq-transf", "seq-lstm")
    return SeqLstm(dimension) if name == "seq-lstm" else SeqTransf(dimension, positions, heads, activation)
