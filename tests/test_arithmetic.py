"""The encoders' arithmetic against attention written out: for few queries and many, under two threads.

Shape suffixes: N images, H heads, Q queries, K keys, W width of a head.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from data.compute.arithmetic import exact_arithmetic
from tests.torch_threads import threads

IMAGES, HEADS, WIDTH = 24, 2, 32


@pytest.mark.exact
@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(1, 20), keys=st.integers(1, 120), masked=st.sampled_from(["all seen", "by query", "by key"]), seed=st.integers(0, 9)
)
def test_attention_of_few_queries(queries: int, keys: int, masked: str, seed: int) -> None:
    """An image at any place of a batch has the same bits, and they are attention as defined (Vaswani et al., 2017, equation 1)."""
    generator = np.random.default_rng(seed)
    query_HQW, key_HKW, value_HKW = (generator.standard_normal((HEADS, n, WIDTH)).astype(np.float32) for n in (queries, keys, keys))
    seen_QK = generator.random((queries if masked == "by query" else 1, keys)) < 0.5
    # A query that sees nothing has no attention.
    seen_QK[:, 0] = True
    mask = None if masked == "all seen" else torch.from_numpy(seen_QK)
    query, key, value = [torch.from_numpy(rows).expand(IMAGES, *rows.shape).contiguous() for rows in (query_HQW, key_HKW, value_HKW)]
    with threads(2), torch.no_grad(), exact_arithmetic(torch.device("cpu")):
        mixed_NHQW = scaled_dot_product_attention(query, key, value, attn_mask=mask).numpy()
    assert (mixed_NHQW == mixed_NHQW[:1]).all()
    scores_HQK = query_HQW.astype(np.float64) @ key_HKW.swapaxes(1, 2) / np.sqrt(WIDTH)
    weight_HQK = np.exp(scores_HQK) * (1 if mask is None else seen_QK)
    expected_HQW = weight_HQK / weight_HQK.sum(axis=-1, keepdims=True) @ value_HKW
    # Rounding of scores up to 8 grows the weights' relative error to 1e-6; values are about 1.
    np.testing.assert_allclose(mixed_NHQW[0], expected_HQW, atol=1e-5)


def test_gradients_pass_through_few_queries() -> None:
    """Fine-tuning differentiates the pooling layers."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, HEADS, n, WIDTH, generator=generator).requires_grad_() for n in (1, 50, 50)]
    query, key, value = inputs
    with exact_arithmetic(torch.device("cpu")):
        found = torch.autograd.grad(scaled_dot_product_attention(query, key, value).square().sum(), inputs)
    doubles = [value.detach().double().requires_grad_() for value in inputs]
    weight_NHQK = (doubles[0] @ doubles[1].mT / WIDTH**0.5).softmax(dim=-1)
    expected = torch.autograd.grad((weight_NHQK @ doubles[2]).square().sum(), doubles)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)
