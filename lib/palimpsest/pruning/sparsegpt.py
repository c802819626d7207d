"""SparseGPT (Frantar and Alistarh 2023, arXiv 2301.00774): prune column by column, let the later columns compensate.

For one linear layer with weights W [out, in] and calibration inputs X the method lowers ‖WX − ŴX‖² with the
optimal-brain-surgeon update. With H = XXᵀ and H⁻¹ = UᵀU (U upper triangular, their section 3.4), pruning W_ij
costs W_ij² / U_jj², and the columns k > j of row i move by −(W_ij / U_jj)·U_jk.
"""

import torch

from .pattern import Pattern, survivors

DAMPING = 0.01
"""Added to the diagonal of H, as a share of its mean (paper, section 4; `percdamp` of the released code)."""


def hessian(inputs: torch.Tensor) -> torch.Tensor:
    """XᵀX of the inputs [tokens, in] -> [in, in], float32 (float64 of float64). Its scale changes no result."""
    inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    return inputs.T @ inputs


def solve(
    weight: torch.Tensor, hessian: torch.Tensor, pattern: Pattern, *, block: int = 128
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune one matrix and adapt what survives.

    weight [out, in]; hessian [in, in], from `hessian` -> (survivors, bool [out, in]; adapted weights [out, in],
    float32 or float64; they are meaningless where the mask is False).

    Stated by the paper: masks are chosen for `block` columns at once, over all rows, from the weights as the
    columns before have left them; for N:M within each group of M, row by row. Our reading: the matrix loses
    ⌊share·out·in + ½⌋ weights, spread evenly over the blocks (the released code prunes one more in every block).
    Inputs that calibration never activates cost nothing: their weights go first. Those of them that survive
    keep their value, where the released code zeroes them.
    """
    pattern.require_fits(weight.shape)
    rows, columns = weight.shape
    unused = hessian.diagonal() == 0
    upper = _inverse_factor(hessian, unused).to(torch.promote_types(weight.dtype, torch.float32))
    # Transposed, so that one input's weights lie together: every step below reads or writes whole rows.
    work = weight.T.to(upper.dtype, copy=True, memory_format=torch.contiguous_format)
    kept = torch.empty_like(work, dtype=torch.bool)
    width = pattern.group or block
    step = max(width, block - block % width)
    for start in range(0, columns, step):
        end = min(start + step, columns)
        errors = torch.empty_like(work[start:end])
        for column in range(start, end):
            if (column - start) % width == 0:
                stop = min(column + width, end)
                cost = (work[column:stop] / upper.diagonal()[column:stop, None]).square()
                cost[unused[column:stop]] = 0
                kept[column:stop] = _choose(cost.T, pattern, column, rows * columns, columns).T
            pruned = work[column].masked_fill(kept[column], 0)
            torch.div(pruned, upper[column, column], out=errors[column - start])
            work[column:end].addr_(upper[column, column:end], errors[column - start], alpha=-1)
        work[end:].addmm_(upper[start:end, end:].T, errors, alpha=-1)
    return kept.T.contiguous(), work.T


def _choose(cost: torch.Tensor, pattern: Pattern, first: int, weights: int, columns: int) -> torch.Tensor:
    """Survivors among `cost` [out, width], the columns from `first` on of a matrix of `weights` weights."""
    if pattern.group:
        return pattern.kept(cost, per="row")
    total, last = pattern.count(weights), first + cost.shape[1]
    here = total * last // columns - total * first // columns
    return survivors(cost.reshape(1, -1), here).view(cost.shape)


def _inverse_factor(hessian: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
    """U [in, in] upper triangular, float64, with UᵀU the inverse of the damped Hessian."""
    damped = hessian.to(torch.float64, copy=True)
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    damped.diagonal()[unused] = 1
    # H = R Rᵀ with R upper triangular is the Cholesky factor from the last column up; then U = R⁻¹, and no
    # inverse of H is ever formed.
    factor = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)
    return torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=True)
