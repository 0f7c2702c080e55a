"""The encoders' arithmetic: float32 in full, and features that do not depend on the rest of the batch, bit for bit.

Shape suffixes: N images or texts, H heads, Q queries, K keys, W width of a head, L positions, I and O inputs and outputs of a layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

QUERIES = 16
"""Fewest queries that attention on the CPU is computed for. So many float32 fill a cache line, 64 bytes."""

Matmul = Literal["blas", "onednn"]
"""What computes the float32 products of a layer's inputs and weights on the CPU: the BLAS of torch, often MKL, or oneDNN."""


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute without TF32, which would round the inputs of products to a 10-bit mantissa."""
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


@contextmanager
def exact_arithmetic(device: torch.device, matmul: Matmul = "blas") -> Iterator[None]:
    """Compute on the device without TF32, and on the CPU with `_PaddedQueries`.

    With `matmul` onednn, layers on the CPU are computed by oneDNN, in float32 as well; the last bits differ.
    """
    # Elsewhere these modes would only slow every operation down.
    of_the_cpu = device.type == "cpu"
    queries = _PaddedQueries() if of_the_cpu else nullcontext()
    layers = _OneDnnLayers() if of_the_cpu and matmul == "onednn" else nullcontext()
    with full_float32(), queries, layers:
        yield


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


class _OneDnnLayers(TorchDispatchMode):
    """Compute linear layers on the CPU by oneDNN.

    torch passes float32 products to its BLAS. In its wheels for x86 that is MKL, which is slow on processors of other makers than Intel.
    `torch.set_float32_matmul_precision("medium")` chooses oneDNN too, but allows it to round the inputs to bfloat16.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        aten = torch.ops.aten
        if not kwargs and args and isinstance(args[0], Tensor) and args[0].is_cpu and args[0].dtype == torch.float32:
            if func is aten.addmm.default and args[0].ndim == 1:
                return _linear(args[1], args[2].t(), args[0])
            if func is aten.mm.default:
                return _linear(args[0], args[1].t(), None)
            if func is aten.bmm.default and args[1].stride(0) == 0:
                return _linear(args[0], args[1][0].t(), None)
            # Self-attention in one operation, whose products are hidden in it. Behind the weights are the mask and whether to return sums.
            if func is aten._native_multi_head_attention.default and args[0] is args[1] is args[2] and args[9:11] == (None, False):
                return _self_attention(args[0], args[4], *args[5:9]), args[0].new_empty(0)
        return func(*args, **(kwargs or {}))


def _linear(input_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(input_NI, weight_OI, bias_O, "none", [], "")
    return made


def _self_attention(input_NLI: Tensor, heads: int, inner_OI: Tensor, inner_O: Tensor, outer_OI: Tensor, outer_O: Tensor) -> Tensor:
    """Self-attention [N, L, O] with the weights of its first layer, which makes queries, keys and values, and of its last."""
    made = _linear(input_NLI, inner_OI, inner_O).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = (part.flatten(0, 1) for part in made.contiguous())
    # torch's attention in tiles is slower than this for the positions of an image tower.
    weight = (query.mul_(query.shape[-1] ** -0.5) @ key.mT).softmax(dim=-1)
    mixed_NHLW = (weight @ value).unflatten(0, (-1, heads))
    return _linear(mixed_NHLW.transpose(1, 2).flatten(2), outer_OI, outer_O)
