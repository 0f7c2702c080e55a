"""The temporal encoder against a plain reading of it."""

import pytest
import torch
from torch import nn

from tests.plain_heads import plain_temporal
from train_head.temporal import TemporalEncoder


@pytest.mark.parametrize("activation", ["QuickGELU", "GELU"])
def test_frames_and_gradients_of_ragged_videos_equal_the_plain_reading(activation: str) -> None:
    torch.manual_seed(0)
    encoder = TemporalEncoder(dimension=16, positions=9, heads=2, activation=activation).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    counts = [7, 1, 4]
    frame_BFD = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    mask_BF = torch.arange(7) < torch.tensor(counts)[:, None]
    weight_BFD = torch.randn(3, 7, 16, dtype=torch.float64)
    inputs = [frame_BFD, *encoder.parameters()]
    found_BFD = encoder(frame_BFD, mask_BF)
    expected = [plain_temporal(encoder, frame_BFD[b, :count]) for b, count in enumerate(counts)]
    for b, count in enumerate(counts):
        torch.testing.assert_close(found_BFD[b, :count], expected[b])
    ours = torch.autograd.grad((found_BFD * weight_BFD)[mask_BF].sum(), inputs)
    loss = torch.stack([(frames * weight_BFD[b, : len(frames)]).sum() for b, frames in enumerate(expected)]).sum()
    for gradient, exact in zip(ours, torch.autograd.grad(loss, inputs), strict=True):
        torch.testing.assert_close(gradient, exact)


def test_gradients_are_finite_where_frames_are_constant_or_zero() -> None:
    """Without variance, a LayerNorm multiplies by 1 / sqrt(epsilon), which is a million."""
    torch.manual_seed(0)
    encoder = TemporalEncoder(dimension=16, positions=4, heads=2, activation="QuickGELU")
    with torch.no_grad():
        encoder.positional_embedding[:2] = 0.0
    frame_BFD = torch.randn(3, 4, 16)
    frame_BFD[0], frame_BFD[1, 0], frame_BFD[1, 1], frame_BFD[2, 3] = 0.0, 0.0, 5.0, 0.0
    frame_BFD.requires_grad_()
    mask_BF = torch.arange(4) < torch.tensor([4, 3, 1])[:, None]
    out_BFD = encoder(frame_BFD, mask_BF)
    out_BFD[mask_BF].square().sum().backward()
    assert out_BFD.isfinite().all()
    for value in (frame_BFD, *encoder.parameters()):
        assert value.grad is not None
        assert value.grad.isfinite().all()
    assert frame_BFD.grad is not None
    assert not frame_BFD.grad[~mask_BF].any()
