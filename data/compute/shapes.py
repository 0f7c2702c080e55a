"""Matrix products whose rounding does not depend on what is multiplied beside a row or column.

A BLAS library works on a few rows and columns at a time and finishes with other code what is left at the edges. It may also choose its
code by the shape. So the same row can have other last bits in a product of another shape, and at another place of the same product; which
shapes are affected differs between processors. Where a result must not depend on its neighbours, products have constant shapes whose rows
and columns are multiples of GRAIN: no edge is left, and rows and columns may change places.

Sums have the same trap. torch adds up a dimension that is not the last in memory for many columns at once, and the columns that are left
over in another order. Where columns are texts or videos, the dimension to be summed has to be the last in memory.

Shape suffixes: R rows, C columns, D joint dimension.
"""

import torch
from torch import Tensor

GRAIN = 48
"""A multiple of the rows and columns that the kernels of common BLAS libraries take at once: 4, 6, 8, 12, 16, 24, 48."""


def multiply_in_panels(row_RD: Tensor, column_CD: Tensor, out_RC: Tensor, panel: tuple[int, int], precision: torch.dtype) -> None:
    """out = rows times columns, as products of `panel` = (rows, columns) each, in this precision; both sizes divide what is given."""
    for rows, out_rows in zip(row_RD.split(panel[0]), out_RC.split(panel[0]), strict=True):
        for columns, out in zip(column_CD.split(panel[1]), out_rows.split(panel[1], dim=1), strict=True):
            if precision == out.dtype:
                torch.mm(rows, columns.T, out=out)
            else:
                out.copy_(rows.to(precision) @ columns.to(precision).T)
