"""SparseGPT with joint quantisation (Frantar and Alistarh 2023, arXiv 2301.00774, section 3.5): what survives is
rounded to a grid as its column is reached, so that later columns make good for pruning and rounding together."""

import torch

from palimpsest.checks import require_count

from .pattern import Pattern
from .sparsegpt import _choose, _inverse_factor


def grid(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero code, [out, 1] each, of rows [out, in]: 2^bits codes from the row's least weight, or 0, to its
    largest, or 0. So 0, a pruned weight, has a code. A row of zeros has scale 1.

    As the code released with SparseGPT quantises (asymmetric, one grid for each row, round to nearest).
    """
    require_count("bits", bits)
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale == 0, 1, scale)
    return scale, (-low / scale).round()


def rounded(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest numbers of the grid."""
    return scale * (((weight / scale).round() + zero).clamp(0, 2**bits - 1) - zero)


def solve(
    weight: torch.Tensor, hessian: torch.Tensor, pattern: Pattern, bits: int, *, block: int = 128
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune and round one matrix, column by column.

    weight [out, in]; hessian [in, in], from `sparsegpt.hessian` -> (survivors, bool [out, in]; weights [out, in] of
    the grid that `grid` gives of `weight`, 0 where the mask is False, float32 or float64).

    A weight that has taken on errors beyond the ends of its row's grid is cut there.

    As `sparsegpt.solve`, but the error that column j hands on is w_j − q_j, q_j the rounded weight, or 0 where it is
    pruned. Masks are chosen for `block` columns at once, from weights that have taken on the earlier columns' errors.
    """
    pattern.require_fits(weight.shape)
    rows, columns = weight.shape
    unused = hessian.diagonal() == 0
    upper = _inverse_factor(hessian, unused)
    work, steps = weight.to(torch.float64, copy=True), grid(weight.double(), bits)
    found, kept = torch.empty_like(work), torch.empty(rows, columns, dtype=torch.bool, device=work.device)
    width = pattern.group or block
    for column in range(columns):
        if column % width == 0:
            part = slice(column, min(column + width, columns))
            cost = (work[:, part] / upper.diagonal()[part]).square().masked_fill(unused[part], 0)
            kept[:, part] = _choose(cost, pattern, column, rows * columns, columns)
        exact = work[:, column, None]
        found[:, column, None] = rounded(exact, *steps, bits).masked_fill(~kept[:, column, None], 0)
        error = (exact - found[:, column, None]) / upper[column, column]
        work[:, column + 1 :] -= error @ upper[column, None, column + 1 :]
    return kept, found.to(torch.promote_types(weight.dtype, torch.float32))
