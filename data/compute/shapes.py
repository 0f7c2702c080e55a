"""Matrix products whose rounding does not depend on the neighbouring rows and columns.

A BLAS kernel processes tiles of a few rows and columns, and different code handles the remainders at the edges. The library may also
choose its kernel by shape. The last bits of a row can therefore change with the shape of the product and with the row's position; which
shapes are affected depends on the processor. Results that must not depend on their neighbours use products of constant shape, whose rows
and columns are multiples of GRAIN: no remainder is left, and rows and columns can be permuted.

Sums have the same trap. Summing over a dimension that is not the last in memory, torch processes many columns at once and the remaining
columns in another order. If columns are texts or videos, the summed dimension must be the last in memory.

Shape suffixes: R rows, C columns, D joint dimension.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

GRAIN = 48
"""A multiple of the tile sizes of common BLAS kernels: 4, 6, 8, 12, 16, 24, 48."""


def filled_rows(row_RD: Tensor) -> Tensor:
    """The rows, and zero rows behind them, a multiple of GRAIN // 2 in all. For the rows of a product, half of GRAIN suffices."""
    return pad(row_RD, (0, 0, 0, -len(row_RD) % (GRAIN // 2)))


def multiply_in_panels(row_RD: Tensor, column_CD: Tensor, out_RC: Tensor, panel: tuple[int, int], precision: torch.dtype) -> None:
    """Write row_RD @ column_CD.T to out_RC [R, C], as products of shape `panel` in this precision.

    panel: (rows, columns) of each product; they divide R and C.
    """
    for rows, out_rows in zip(row_RD.split(panel[0]), out_RC.split(panel[0]), strict=True):
        for columns, out in zip(column_CD.split(panel[1]), out_rows.split(panel[1], dim=1), strict=True):
            if precision == out.dtype:
                torch.mm(rows, columns.T, out=out)
            else:
                out.copy_(rows.to(precision) @ columns.to(precision).T)
