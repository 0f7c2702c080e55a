"""The two losses of GLCCL against plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train_head.losses import CscData, contrastive_loss, csc_loss


def naive_csc(scores: torch.Tensor) -> float:
    _, a, b = scores.shape
    matching: list[float] = []
    others: list[float] = []
    for i in range(a):
        for j in range(b):
            values = scores[:, i, j].tolist()
            mean = sum(values) / len(values)
            variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
            (matching if i == j else others).append(variance)
    return (sum(matching) / len(matching)) / (sum(others) / len(others))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 6), scores=st.integers(2, 5))
def test_csc_is_a_ratio_of_mean_variances(seed: int, size: int, scores: int) -> None:
    values = torch.randn(scores, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert csc_loss(values).item() == pytest.approx(naive_csc(values))


@pytest.mark.parametrize("size", [2, 4])
def test_csc_gradient(size: int) -> None:
    values = torch.randn(4, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(csc_loss, (values,))


@pytest.mark.parametrize(("data", "moves_matching", "moves_others"), [("both", 1, 1), ("positive", 1, 0), ("negative", 0, 1)])
def test_csc_data_chooses_where_the_gradient_goes(data: CscData, moves_matching: bool, moves_others: bool) -> None:
    values = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    loss = csc_loss(values, data=data)
    assert loss.item() == pytest.approx(csc_loss(values).item())
    loss.backward()
    assert values.grad is not None
    same = torch.eye(3, dtype=torch.bool)
    assert bool(values.grad[:, same].any()) == moves_matching
    assert bool(values.grad[:, ~same].any()) == moves_others


def test_csc_takes_other_matching_pairs() -> None:
    values = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(2))
    same = torch.tensor([[True, False], [True, False], [False, True]])
    variance = values.var(dim=0)
    expected = variance[same].mean() / variance[~same].mean()
    torch.testing.assert_close(csc_loss(values, same), expected)


def test_csc_without_variance_does_not_divide() -> None:
    values = torch.ones(4, 3, 3, requires_grad=True)
    loss = csc_loss(values)
    loss.backward()
    assert loss.item() == 0
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_csc_needs_pairs_to_compare() -> None:
    with pytest.raises(ValueError, match="batch of at least 2"):
        csc_loss(torch.ones(4, 1, 1))
    with pytest.raises(ValueError, match="several scores"):
        csc_loss(torch.ones(1, 3, 3))


def test_contrastive_loss_is_both_cross_entropies() -> None:
    values = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = [-math.log(math.exp(values[i, i]) / sum(math.exp(values[i, j]) for j in range(5))) for i in range(5)]
    columns = [-math.log(math.exp(values[i, i]) / sum(math.exp(values[j, i]) for j in range(5))) for i in range(5)]
    assert contrastive_loss(values).item() == pytest.approx((sum(rows) + sum(columns)) / 10)
