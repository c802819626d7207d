"""Triton kernels: equations (2) to (4) of README.md. One read of the logits forward; one read, one write back."""

import math

import torch
import triton
import triton.language as tl

from palimpsest.kernels.softmax_entropy.reference import FAR as FAR_FLOAT
from palimpsest.kernels.tolerances import accumulation_dtype

LOG2_E = tl.constexpr(1 / math.log(2))
LN_2 = tl.constexpr(math.log(2))
FAR = tl.constexpr(FAR_FLOAT)
ACCUMULATOR = {torch.float32: tl.float32, torch.float64: tl.float64}

TILE_BYTES = 16384
"""Of one tile in the accumulation dtype: 32 float32 for each thread of 4 warps."""
INTERPRETED_TILE_BYTES = 1 << 20


def _blocks(rows, width, dtype):
    """Rows and columns of a tile. The interpreter pays for each program and each step, so it gets large ones."""
    compiled = isinstance(_entropy, triton.JITFunction)
    budget = (TILE_BYTES if compiled else INTERPRETED_TILE_BYTES) // dtype.itemsize
    columns = min(budget, triton.next_power_of_2(width))
    return min(budget // columns, triton.next_power_of_2(rows)), columns


@triton.jit
def _log1p(x):
    """ln(1 + x), x >= -1, as accurate as log2: the rounding of 1 + x cancels against that of the divisor."""
    one_more = 1.0 + x
    rounded = one_more - 1.0
    absorbed = rounded == 0.0
    return tl.where(absorbed, x, tl.log2(one_more) * LN_2 * (x / tl.where(absorbed, 1.0, rounded)))


@triton.jit
def _distance(x, top):
    """|t| = top - x, at most FAR. Compared, not minimised: NaN stays NaN."""
    distance = top - x
    return tl.where(distance > FAR, FAR, distance)


@triton.jit
def _entropy(
    logits, entropy, top, total, mean, rows, width, stride_row, stride_col,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Maximum, R and W of whole rows tile by tile, joined by equation (3); then equation (2)."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(r, rows - 1)  # rows past the end repeat the last one: no logarithm of an empty sum
    best = tl.full((ROWS,), float("-inf"), ACC)
    others = tl.full((ROWS,), -1.0, ACC)  # R = sum - 1, so that of no term at all is -1
    weighted = tl.zeros((ROWS,), ACC)
    for start in range(0, width, COLUMNS):
        k = start + tl.arange(0, COLUMNS).to(tl.int64)
        address = logits + row[:, None] * stride_row + k[None, :] * stride_col
        x = tl.load(address, (k < width)[None, :], float("-inf")).to(ACC)
        tile_best = tl.max(x, 1)
        higher = tl.where(best > tile_best, best, tile_best)
        # Of -inf alone there is no maximum: distances from 0 are cut, and no term is counted.
        tile_top = tl.where(tile_best == float("-inf"), 0.0, tile_best)
        top_so_far = tl.where(higher == float("-inf"), 0.0, higher)

        distance = _distance(x, tile_top[:, None])
        exponential = tl.exp2(distance * -LOG2_E)
        ties = tl.sum(tl.where(distance == 0.0, 1.0, 0.0), 1)
        tile_others = tl.sum(tl.where(distance == 0.0, 0.0, exponential), 1) + (ties - 1.0)
        tile_weighted = tl.sum(exponential * distance, 1)

        old, new = _distance(best, top_so_far), _distance(tile_best, top_so_far)
        old_factor, new_factor = tl.exp2(old * -LOG2_E), tl.exp2(new * -LOG2_E)
        old_sum, new_sum = (1.0 + others) * old_factor, (1.0 + tile_others) * new_factor
        weighted = weighted * old_factor + old_sum * old + tile_weighted * new_factor + new_sum * new
        others = tl.where(old == 0.0, others + new_sum, tile_others + old_sum)
        best = higher
    inside = r < rows
    sum_all = 1.0 + others
    average = weighted / sum_all
    tl.store(entropy + r, _log1p(others) + average, inside)
    tl.store(top + r, best, inside)
    tl.store(total + r, sum_all, inside)
    tl.store(mean + r, average, inside)


@triton.jit
def _entropy_gradient(
    logits, top, total, mean, grad_output, grad, rows, width,
    stride_row, stride_col, grad_output_stride, grad_stride_row, grad_stride_col,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One [ROWS, COLUMNS] tile of equation (4)."""
    blocks_k = tl.cdiv(width, COLUMNS)
    r = (tl.program_id(0) // blocks_k).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = (tl.program_id(0) % blocks_k).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = r < rows
    mask = inside[:, None] & (k < width)[None, :]
    x = tl.load(logits + r[:, None] * stride_row + k[None, :] * stride_col, mask, float("-inf")).to(ACC)
    distance = _distance(x, tl.load(top + r, inside, 0.0)[:, None])
    factor = tl.load(grad_output + r * grad_output_stride, inside, 0.0).to(ACC) / tl.load(total + r, inside, 1.0)
    average = tl.load(mean + r, inside, 0.0)
    value = factor[:, None] * tl.exp2(distance * -LOG2_E) * (distance - average[:, None])
    tl.store(grad + r[:, None] * grad_stride_row + k[None, :] * grad_stride_col, value, mask)


def forward(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[N, K] -> entropy [N] in nats, then maximum, 1 + R and A of the rows, all float32 (float64 for float64)."""
    dtype = accumulation_dtype(logits.dtype)
    rows, width = logits.shape
    results = [torch.empty(rows, dtype=dtype, device=logits.device) for _ in range(4)]
    block_rows, columns = _blocks(rows, width, dtype)
    _entropy[(triton.cdiv(rows, block_rows),)](
        logits, *results, rows, width, *logits.stride(),
        ACC=ACCUMULATOR[dtype], ROWS=block_rows, COLUMNS=columns,
    )  # fmt: skip
    return tuple(results)


def backward(
    logits: torch.Tensor, top: torch.Tensor, total: torch.Tensor, mean: torch.Tensor, grad_output: torch.Tensor
) -> torch.Tensor:
    """Gradient of the logits [N, K], in their dtype, from what `forward` gave and grad_output [N]."""
    dtype = accumulation_dtype(logits.dtype)
    rows, width = logits.shape
    grad = torch.empty_like(logits)
    block_rows, columns = _blocks(rows, width, dtype)
    _entropy_gradient[(triton.cdiv(rows, block_rows) * triton.cdiv(width, columns),)](
        logits, top, total, mean, grad_output, grad, rows, width,
        *logits.stride(), *grad_output.stride(), *grad.stride(),
        ACC=ACCUMULATOR[dtype], ROWS=block_rows, COLUMNS=columns,
    )  # fmt: skip
    return grad
