"""The encoders' arithmetic: float32 in full, and features that do not depend on the rest of the batch, bit for bit.

Shape suffixes: N images or texts, H heads, Q queries, K keys, W width of a head.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

QUERIES = 16
"""Fewest queries that attention on the CPU is computed for. So many float32 fill a cache line, 64 bytes."""


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Compute without TF32, which would round the inputs of products to a 10-bit mantissa, and with `_PaddedQueries`."""
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False), _PaddedQueries():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


class _PaddedQueries(TorchDispatchMode):
    """Pad the few queries of a pooling layer, often one, to QUERIES.

    PyTorch's attention on the CPU gives every thread a buffer whose size follows from the number of queries. With few of them a buffer
    need not start at a cache line. Products of few rows round by where their rows start, on some processors: an image's feature would
    depend on the thread that computed it, and so on its place in the batch.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            return _attention(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(func: Callable[..., tuple[Tensor, Tensor]], query_NHQW: Tensor, *others: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Attention [N, H, Q, W] and the logarithms of its sums [N, H, Q]. `others` are keys and values [N, H, K, W] and scalars."""
    count = query_NHQW.shape[2]
    missing = QUERIES - count
    if missing <= 0:
        return func(query_NHQW, *others, **options)
    mask = options.get("attn_mask")
    if mask is not None and mask.shape[-2] == count:
        options["attn_mask"] = pad(mask, (0, 0, 0, missing))
    mixed_NHQW, logsum_NHQ = func(pad(query_NHQW, (0, 0, 0, missing)), *others, **options)
    return mixed_NHQW[:, :, :count], logsum_NHQ[:, :, :count]
