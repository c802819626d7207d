"""Triton kernels: equations (4) to (8) of README.md. Logarithms are to base 2 inside, as GPUs have them."""

import math
from fractions import Fraction

import torch
import triton
import triton.language as tl

from palimpsest.kernels.jensen_shannon.reference import greatest_divergence
from palimpsest.kernels.tolerances import accumulation_dtype

LOG2_E = tl.constexpr(1 / math.log(2))
LN_2 = tl.constexpr(math.log(2))
LOG2_ZERO = tl.constexpr(-2048.0)
"""Stands for log2 0 in both precisions: exp2 of it is 0, yet differences of it are finite."""
NEAR = tl.constexpr(0.5)
"""Below this |ln p - ln q| the series of G replaces the closed form, which cancels there."""


def _series(terms):
    """Taylor coefficients of G(x) / x^2 in x^2, equation (5), by way of tanh' = 1 - tanh^2."""
    tanh = [Fraction(0)]
    for k in range(2 * terms):
        square = sum(tanh[i] * tanh[k - i] for i in range(k + 1))
        tanh.append(((k == 0) - square) / (k + 1))
    return tuple(float((k + 1) * tanh[k + 1] / (4 * 2**k * (k + 2))) for k in range(0, 2 * terms, 2))


# So many terms that at x = NEAR the first one left out is below half a unit roundoff.
SERIES = {torch.float32: _series(6), torch.float64: _series(12)}
ACCUMULATOR = {torch.float32: tl.float32, torch.float64: tl.float64}

TILE_BYTES = 8192
"""Of one tile in the accumulation dtype. Twice as much needs 250 registers a thread on sm_90."""

SPLIT_TARGET = 512
"""Programs wanted by the backward pass, about four for each processor of a large GPU. Fixed, so that the
order of summation, and with it every bit, does not depend on the card."""


def _power_of_2(count, largest):
    return min(largest, triton.next_power_of_2(count))


def _blocks(rows, others, width, dtype):
    """Rows, other rows and columns of a tile. A GPU gets 16 float32 for each thread of 4 warps, and at most
    one idle column in nine. The interpreter pays for each program and each step, so it gets wide tiles.
    """
    if not isinstance(_pairs, triton.JITFunction):
        return _power_of_2(rows, 64), _power_of_2(others, 64), _power_of_2(width, 64)
    columns = max(b for b in (1, 2, 4, 8, 16, 32) if 8 * triton.cdiv(width, b) * b <= 9 * width)
    budget = TILE_BYTES // dtype.itemsize // columns
    block_others = _power_of_2(others, min(128, max(16, budget // 8)))
    return _power_of_2(rows, budget // block_others), block_others, columns


@triton.jit
def _row_statistics(
    logits, top, log_sum, rows, width, stride_row, stride_col,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Maximum (as given) and log2 of the sum of exp(logit - maximum), in one read. Kept apart: their sum
    would round away the small part when logits are large."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(r, rows - 1)  # rows past the end repeat the last one: no log2 of an empty sum
    best = tl.full((ROWS,), float("-inf"), ACC)
    total = tl.zeros((ROWS,), ACC)
    for start in range(0, width, COLUMNS):
        d = start + tl.arange(0, COLUMNS).to(tl.int64)
        address = logits + row[:, None] * stride_row + d[None, :] * stride_col
        x = tl.load(address, (d < width)[None, :], float("-inf")).to(ACC)
        higher = tl.maximum(best, tl.max(x, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp2((best - shift) * LOG2_E) + tl.sum(tl.exp2((x - shift[:, None]) * LOG2_E), 1)
        best = higher
    tl.store(top + r, best, r < rows)
    tl.store(log_sum + r, tl.log2(total), r < rows)


@triton.jit
def _log_probabilities(logits, top, log_sum, r, d, rows, width, stride_row, stride_col, ACC: tl.constexpr):
    """log2 softmax of rows r, columns d; LOG2_ZERO outside. Compared, not maximised: NaN stays NaN."""
    mask = (r < rows)[:, None] & (d < width)[None, :]
    x = tl.load(logits + r[:, None] * stride_row + d[None, :] * stride_col, mask, float("-inf")).to(ACC)
    best = tl.load(top + r, r < rows, 0.0)[:, None]
    log_p = (x - best) * LOG2_E - tl.load(log_sum + r, r < rows, 0.0)[:, None]
    return tl.where(log_p < LOG2_ZERO, LOG2_ZERO, log_p)


@triton.jit
def _pairs(
    p_logits, q_logits, p_top, p_log_sum, q_top, q_log_sum, out, n_rows, c_rows, width,
    p_stride_row, p_stride_col, q_stride_row, q_stride_col, out_stride_n, out_stride_c,
    SERIES: tl.constexpr, CEILING: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, OTHERS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One [ROWS, OTHERS] block of J, equations (4) and (6). Neighbouring programs share p's rows."""
    blocks_c = tl.cdiv(c_rows, OTHERS)
    n = (tl.program_id(0) // blocks_c).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = (tl.program_id(0) % blocks_c).to(tl.int64) * OTHERS + tl.arange(0, OTHERS)
    acc = tl.zeros((ROWS, OTHERS, COLUMNS), ACC)
    for start in range(0, width, COLUMNS):
        d = start + tl.arange(0, COLUMNS).to(tl.int64)
        log_p = _log_probabilities(p_logits, p_top, p_log_sum, n, d, n_rows, width, p_stride_row, p_stride_col, ACC)
        log_q = _log_probabilities(q_logits, q_top, q_log_sum, c, d, c_rows, width, q_stride_row, q_stride_col, ACC)
        p, q = tl.exp2(log_p)[:, None, :], tl.exp2(log_q)[None, :, :]
        delta = tl.abs(log_p[:, None, :] - log_q[None, :, :])
        total = p + q
        # log2 2/(1 + e^-x) is at least log2 1.24 here, where it is used: nothing cancels.
        far = total * (1.0 - tl.log2(1.0 + tl.exp2(-delta))) - tl.where(p < q, p, q) * delta
        x = delta * LN_2
        square = x * x
        near = tl.zeros_like(square)
        for k in tl.static_range(len(SERIES)):
            near = near * square + SERIES[len(SERIES) - 1 - k]
        acc += tl.where(x < NEAR, total * square * near, far * LN_2)
    divergence = tl.sum(acc, 2) * 0.5
    divergence = tl.where(divergence < 0.0, 0.0, divergence)
    divergence = tl.where(divergence > CEILING, CEILING, divergence)
    inside = (n < n_rows)[:, None] & (c < c_rows)[None, :]
    tl.store(out + n[:, None] * out_stride_n + c[None, :] * out_stride_c, divergence, inside)


@triton.jit
def _weighted_log_ratios(
    x_logits, y_logits, x_top, x_log_sum, y_top, y_log_sum, weight, out, x_rows, y_rows, width, y_per_split,
    x_stride_row, x_stride_col, y_stride_row, y_stride_col, weight_stride_x, weight_stride_y,
    out_stride_split,
    ACC: tl.constexpr, ROWS: tl.constexpr, OTHERS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[split, x, d] = x_d * sum over this split's rows y of weight[x, y] ln(x_d / m_d), equation (8)."""
    blocks_d = tl.cdiv(width, COLUMNS)
    r = (tl.program_id(0) // blocks_d).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = (tl.program_id(0) % blocks_d).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    split = tl.program_id(1).to(tl.int64)
    log_x = _log_probabilities(x_logits, x_top, x_log_sum, r, d, x_rows, width, x_stride_row, x_stride_col, ACC)
    acc = tl.zeros((ROWS, OTHERS, COLUMNS), ACC)
    first = split * y_per_split
    last = tl.minimum(first + y_per_split, y_rows)
    for start in range(first, last, OTHERS):
        y = start + tl.arange(0, OTHERS)
        log_y = _log_probabilities(y_logits, y_top, y_log_sum, y, d, last, width, y_stride_row, y_stride_col, ACC)
        inside = (r < x_rows)[:, None] & (y < last)[None, :]
        g = tl.load(weight + r[:, None] * weight_stride_x + y[None, :] * weight_stride_y, inside, 0.0)
        delta = log_x[:, None, :] - log_y[None, :, :]
        log_ratio = 1.0 - tl.log2(1.0 + tl.exp2(-tl.abs(delta))) + tl.where(delta < 0.0, delta, 0.0)
        acc += g.to(ACC)[:, :, None] * log_ratio
    result = tl.exp2(log_x) * tl.sum(acc, 1) * LN_2
    offset = split * out_stride_split + r[:, None] * width + d[None, :]
    tl.store(out + offset, result, (r < x_rows)[:, None] & (d < width)[None, :])


@triton.jit
def _through_softmax(
    logits, top, log_sum, partial, grad, rows, width, splits,
    partial_stride, stride_row, stride_col, grad_stride_row, grad_stride_col,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Equation (7), grad = (u - p sum_d u) / 2, u the sum of the splits in order; the first loop sums u."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_sum = tl.zeros((ROWS,), ACC)
    for start in range(0, width, COLUMNS):
        d = start + tl.arange(0, COLUMNS).to(tl.int64)
        mask = (r < rows)[:, None] & (d < width)[None, :]
        for split in range(0, splits):
            offset = split * partial_stride + r[:, None] * width + d[None, :]
            row_sum += tl.sum(tl.load(partial + offset, mask, 0.0), 1)
    for start in range(0, width, COLUMNS):
        d = start + tl.arange(0, COLUMNS).to(tl.int64)
        mask = (r < rows)[:, None] & (d < width)[None, :]
        u = tl.zeros((ROWS, COLUMNS), ACC)
        for split in range(0, splits):
            offset = split * partial_stride + r[:, None] * width + d[None, :]
            u += tl.load(partial + offset, mask, 0.0)
        p = tl.exp2(_log_probabilities(logits, top, log_sum, r, d, rows, width, stride_row, stride_col, ACC))
        value = (u - p * row_sum[:, None]) * 0.5
        tl.store(grad + r[:, None] * grad_stride_row + d[None, :] * grad_stride_col, value, mask)


def _row_blocks(rows, width, dtype):
    """Rows and columns of a tile of the kernels that own whole rows."""
    budget = TILE_BYTES // dtype.itemsize
    columns = _power_of_2(width, budget)
    return _power_of_2(rows, budget // columns), columns


def _statistics(logits):
    """[R, D] -> row maxima and log2 row sums, both [R] in the accumulation dtype."""
    dtype = accumulation_dtype(logits.dtype)
    rows, width = logits.shape
    top, log_sum = (torch.empty(rows, dtype=dtype, device=logits.device) for _ in range(2))
    block_rows, columns = _row_blocks(rows, width, dtype)
    _row_statistics[(triton.cdiv(rows, block_rows),)](
        logits, top, log_sum, rows, width, *logits.stride(),
        ACC=ACCUMULATOR[dtype], ROWS=block_rows, COLUMNS=columns,
    )  # fmt: skip
    return top, log_sum


def forward(p_logits: torch.Tensor, q_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[N, D], [C, D] -> [N, C] nats, float32 (float64 for float64), then the row statistics of p and of q.

    None of N, C, D is 0.
    """
    dtype = accumulation_dtype(p_logits.dtype)
    (n_rows, width), c_rows = p_logits.shape, q_logits.shape[0]
    out = torch.empty(n_rows, c_rows, dtype=dtype, device=p_logits.device)
    rows, others, columns = _blocks(n_rows, c_rows, width, dtype)
    statistics = (*_statistics(p_logits), *_statistics(q_logits))
    _pairs[(triton.cdiv(n_rows, rows) * triton.cdiv(c_rows, others),)](
        p_logits, q_logits, *statistics, out, n_rows, c_rows, width,
        *p_logits.stride(), *q_logits.stride(), *out.stride(),
        SERIES=SERIES[dtype], CEILING=greatest_divergence(dtype), ACC=ACCUMULATOR[dtype],
        ROWS=rows, OTHERS=others, COLUMNS=columns,
    )  # fmt: skip
    return out, *statistics


def _gradient(x_logits, y_logits, x_statistics, y_statistics, weight):
    """Gradient of x_logits [X, D], summed over the rows of y_logits [Y, D] with weight [X, Y]."""
    dtype = accumulation_dtype(x_logits.dtype)
    (x_rows, width), y_rows = x_logits.shape, y_logits.shape[0]
    rows, others, columns = _blocks(x_rows, y_rows, width, dtype)
    programs = triton.cdiv(x_rows, rows) * triton.cdiv(width, columns)
    wanted = min(triton.cdiv(SPLIT_TARGET, programs), triton.cdiv(y_rows, others))
    y_per_split = triton.cdiv(triton.cdiv(y_rows, wanted), others) * others
    splits = triton.cdiv(y_rows, y_per_split)
    partial = torch.empty(splits, x_rows, width, dtype=dtype, device=x_logits.device)
    _weighted_log_ratios[(programs, splits)](
        x_logits, y_logits, *x_statistics, *y_statistics, weight, partial, x_rows, y_rows, width, y_per_split,
        *x_logits.stride(), *y_logits.stride(), *weight.stride(), partial.stride(0),
        ACC=ACCUMULATOR[dtype], ROWS=rows, OTHERS=others, COLUMNS=columns,
    )  # fmt: skip
    grad = torch.empty_like(x_logits)
    block_rows, columns = _row_blocks(x_rows, width, dtype)
    _through_softmax[(triton.cdiv(x_rows, block_rows),)](
        x_logits, *x_statistics, partial, grad, x_rows, width, splits,
        partial.stride(0), *x_logits.stride(), *grad.stride(),
        ACC=ACCUMULATOR[dtype], ROWS=block_rows, COLUMNS=columns,
    )  # fmt: skip
    return grad


def backward(p_logits, q_logits, p_top, p_log_sum, q_top, q_log_sum, grad_output):
    """Gradients of both logits, [N, D] and [C, D] in their dtype, from the statistics and grad_output [N, C]."""
    p_statistics, q_statistics = (p_top, p_log_sum), (q_top, q_log_sum)
    return (
        _gradient(p_logits, q_logits, p_statistics, q_statistics, grad_output),
        _gradient(q_logits, p_logits, q_statistics, p_statistics, grad_output.t()),
    )
