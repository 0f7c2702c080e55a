"""What the processor computes fast: lower precisions, and layers by oneDNN."""

from typing import Literal

import torch

from data.base.errors import UserError
from data.compute.arithmetic import Matmul

Precision = Literal["fp32", "bf16", "fp16"]
INSTRUCTIONS: dict[Precision, tuple[str, ...]] = {
    "bf16": ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}
"""Instructions for products of each precision, by torch's name."""


def slow_here(precision: Precision, device: torch.device) -> str | None:
    """A line that says why a precision is slow on this device; None if it is not."""
    if precision == "fp32" or device.type != "cpu":
        return None
    offered = torch.cpu.get_capabilities()
    if any(offered.get(name) for name in INSTRUCTIONS[precision]):
        return None
    return f"--precision {precision} is slower than fp32 here: this processor has no instructions for it"


def require_matmul(matmul: Matmul, precision: Precision) -> None:
    """Raise UserError unless this torch can compute layers of this precision so."""
    if matmul == "blas":
        return
    if precision != "fp32":
        raise UserError(f"--matmul {matmul} is for --precision fp32, and this is {precision}: leave one of both out")
    if not torch.backends.mkldnn.is_available():
        raise UserError(f"--matmul {matmul}: torch is built without oneDNN here: use --matmul blas")
