"""Triton kernels: equations (2) to (5) of README.md. Exponentials are to base 2 inside, as GPUs have them."""

import math

import torch
import triton
import triton.language as tl

from palimpsest.kernels.tolerances import accumulation_dtype

LOG2_E = tl.constexpr(1 / math.log(2))
TRITON_DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
PRECISION = {torch.float64: "ieee"}
"""Of tl.dot; elsewhere three passes in TF32, which for float32 lose 2^-22 a product and for 16 bits mean nothing."""

SPLIT_TARGET = 512
"""Programs wanted by the row statistics, about four for each processor of a large GPU. Fixed, so that the order
of summation, and with it every bit, does not depend on the card."""

SMALLEST_BUFFER = 1 << 20
"""Coefficients held at once by the backward pass where 1 % of T x V is less."""

HEADROOM = 2.0**14
"""Coefficients are stored times this: those of a probability of 2^-38 are not yet 0 in float16."""


def _compiled():
    return isinstance(_vocabulary_statistics, triton.JITFunction)


def _blocks(rows, others, width, dtype):
    """Rows, other rows and columns of a tile, and warps. tl.dot wants at least 16 of each. The interpreter pays for
    each program and each step, so it gets wide tiles whatever the dtype.
    """
    if not _compiled():
        largest, warps = (64, 64, 64), 4
    else:
        largest, warps = {8: ((32, 32, 16), 4), 4: ((64, 64, 16), 4), 2: ((128, 128, 32), 8)}[dtype.itemsize]
    sizes = (max(16, triton.next_power_of_2(count)) for count in (rows, others, width))
    return *(min(size, most) for size, most in zip(sizes, largest, strict=True)), warps


def _held(dtype):
    """What tl.dot multiplies and kernels store: the input's own dtype, except bfloat16 under the interpreter, whose
    products are wrong there and whose stores cut digits off instead of rounding.
    """
    return torch.float32 if dtype == torch.bfloat16 and not _compiled() else dtype


@triton.jit
def _logits(
    hidden, weight, t, v, tokens, vocabulary, width,
    hidden_stride_t, hidden_stride_d, weight_stride_v, weight_stride_d,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, OTHERS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One [ROWS, OTHERS] tile of z = hidden weight^T, equation (2)."""
    z = tl.zeros((ROWS, OTHERS), ACC)
    for start in range(0, width, COLUMNS):
        d = start + tl.arange(0, COLUMNS).to(tl.int64)
        inside = (d < width)[None, :]
        h_at = hidden + t[:, None] * hidden_stride_t + d[None, :] * hidden_stride_d
        w_at = weight + v[:, None] * weight_stride_v + d[None, :] * weight_stride_d
        h = tl.load(h_at, (t < tokens)[:, None] & inside, 0.0).to(OPERAND)
        w = tl.load(w_at, (v < vocabulary)[:, None] & inside, 0.0).to(OPERAND)
        z = tl.dot(h, tl.trans(w), z, input_precision=PRECISION, out_dtype=ACC)
    return z


@triton.jit
def _vocabulary_statistics(
    hidden, weight, targets, top, total, picked, tokens, vocabulary, width, per_split,
    hidden_stride_t, hidden_stride_d, weight_stride_v, weight_stride_d, target_stride,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, OTHERS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Over this split's part of the vocabulary: maximum of z, sum of exp(z - maximum), and z of the target or -inf.

    Programs that run side by side differ in t first, so they share the rows of weight.
    """
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(1).to(tl.int64)
    target = tl.load(targets + t * target_stride, t < tokens, -1)
    best = tl.full((ROWS,), float("-inf"), ACC)
    found = tl.full((ROWS,), float("-inf"), ACC)
    summed = tl.zeros((ROWS,), ACC)
    first = split * per_split
    last = tl.minimum(first + per_split, vocabulary)
    for start in range(first, last, OTHERS):
        v = start + tl.arange(0, OTHERS).to(tl.int64)
        z = _logits(
            hidden, weight, t, v, tokens, last, width,
            hidden_stride_t, hidden_stride_d, weight_stride_v, weight_stride_d,
            OPERAND, PRECISION, ACC, ROWS, OTHERS, COLUMNS,
        )  # fmt: skip
        z = tl.where((v < last)[None, :], z, float("-inf"))
        hit = (v[None, :] == target[:, None]) & (v < last)[None, :]
        found = tl.maximum(found, tl.max(tl.where(hit, z, float("-inf")), 1))
        higher = tl.maximum(best, tl.max(z, 1))
        summed = summed * tl.exp2((best - higher) * LOG2_E) + tl.sum(tl.exp2((z - higher[:, None]) * LOG2_E), 1)
        best = higher
    at = split * tokens + t
    tl.store(top + at, best, t < tokens)
    tl.store(total + at, summed, t < tokens)
    tl.store(picked + at, found, t < tokens)


@triton.jit
def _coefficients(
    hidden, weight, targets, top, log_sum, rate, out, tokens, vocabulary, width, first_v,
    hidden_stride_t, hidden_stride_d, weight_stride_v, weight_stride_d, target_stride, out_stride,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, OTHERS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[t, v] = rate_t ([v = y_t] - p_tv), equation (4), for the part of weight that begins with row first_v."""
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    v = tl.program_id(1).to(tl.int64) * OTHERS + tl.arange(0, OTHERS)
    z = _logits(
        hidden, weight, t, v, tokens, vocabulary, width,
        hidden_stride_t, hidden_stride_d, weight_stride_v, weight_stride_d,
        OPERAND, PRECISION, ACC, ROWS, OTHERS, COLUMNS,
    )  # fmt: skip
    target = tl.load(targets + t * target_stride, t < tokens, -1)
    highest = tl.load(top + t, t < tokens, 0.0)
    normaliser = tl.load(log_sum + t, t < tokens, 0.0)
    slope = tl.load(rate + t, t < tokens, 0.0)
    p = tl.exp2((z - highest[:, None] - normaliser[:, None]) * LOG2_E)
    value = slope[:, None] * (tl.where((first_v + v)[None, :] == target[:, None], 1.0, 0.0) - p)
    inside = (t < tokens)[:, None] & (v < vocabulary)[None, :]
    tl.store(out + t[:, None] * out_stride + v[None, :], value, inside)


@triton.jit
def _product(
    a, b, unit, out, rows, columns, length,
    a_stride_row, a_stride_k, b_stride_k, b_stride_column, out_stride_row, out_stride_column,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, OTHERS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out = unit * a b, equation (5); the sum over k runs in order within one program."""
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1).to(tl.int64) * OTHERS + tl.arange(0, OTHERS)
    summed = tl.zeros((ROWS, OTHERS), ACC)
    for start in range(0, length, COLUMNS):
        k = start + tl.arange(0, COLUMNS).to(tl.int64)
        a_at = a + m[:, None] * a_stride_row + k[None, :] * a_stride_k
        b_at = b + k[:, None] * b_stride_k + n[None, :] * b_stride_column
        left = tl.load(a_at, (m < rows)[:, None] & (k < length)[None, :], 0.0).to(OPERAND)
        right = tl.load(b_at, (k < length)[:, None] & (n < columns)[None, :], 0.0).to(OPERAND)
        summed = tl.dot(left, right, summed, input_precision=PRECISION, out_dtype=ACC)
    inside = (m < rows)[:, None] & (n < columns)[None, :]
    tl.store(out + m[:, None] * out_stride_row + n[None, :] * out_stride_column, summed * tl.load(unit), inside)


def _constants(dtype, blocks):
    rows, others, columns, warps = blocks
    return {
        "OPERAND": TRITON_DTYPES[_held(dtype)],
        "PRECISION": PRECISION.get(dtype, "tf32x3"),
        "ACC": TRITON_DTYPES[accumulation_dtype(dtype)],
        "ROWS": rows,
        "OTHERS": others,
        "COLUMNS": columns,
        "num_warps": warps,
    }


def forward(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, with_gradient: bool
) -> tuple[torch.Tensor, ...]:
    """Value, row maximum and logarithm of the row sum, all [T]. The splits are merged in their order."""
    (tokens, width), vocabulary = hidden.shape, len(weight)
    blocks = _blocks(tokens, vocabulary, width, hidden.dtype)
    row_blocks = triton.cdiv(tokens, blocks[0])
    wanted = min(triton.cdiv(SPLIT_TARGET, row_blocks), triton.cdiv(vocabulary, blocks[1]))
    per_split = triton.cdiv(triton.cdiv(vocabulary, wanted), blocks[1]) * blocks[1]
    splits = triton.cdiv(vocabulary, per_split)
    parts = torch.empty(3, splits, tokens, dtype=accumulation_dtype(hidden.dtype), device=hidden.device)
    _vocabulary_statistics[(row_blocks, splits)](
        hidden, weight, targets, *parts, tokens, vocabulary, width, per_split,
        *hidden.stride(), *weight.stride(), *targets.stride(), **_constants(hidden.dtype, blocks),
    )  # fmt: skip
    tops, totals, picked = parts
    top = tops.amax(0)
    log_sum = (totals * (tops - top).exp()).sum(0).log()
    return (picked.amax(0) - top) - log_sum, top, log_sum


def _fill(buffer, hidden, weight, targets, top, log_sum, rate, first_v):
    """The coefficients of these tokens and these rows of weight, in the front of `buffer`: [T', V']."""
    (tokens, width), vocabulary = hidden.shape, len(weight)
    out = buffer[: tokens * vocabulary].view(tokens, vocabulary)
    blocks = _blocks(tokens, vocabulary, width, hidden.dtype)
    _coefficients[(triton.cdiv(tokens, blocks[0]), triton.cdiv(vocabulary, blocks[1]))](
        hidden, weight, targets, top, log_sum, rate, out, tokens, vocabulary, width, first_v,
        *hidden.stride(), *weight.stride(), *targets.stride(), out.stride(0), **_constants(hidden.dtype, blocks),
    )  # fmt: skip
    return out


def _multiply(a, b, unit, out):
    """out = unit * a b for [M, K] and [K, N]."""
    (rows, length), columns = a.shape, b.shape[1]
    blocks = _blocks(rows, columns, length, b.dtype)
    _product[(triton.cdiv(rows, blocks[0]), triton.cdiv(columns, blocks[1]))](
        a, b, unit, out, rows, columns, length,
        *a.stride(), *b.stride(), *out.stride(), **_constants(b.dtype, blocks),
    )  # fmt: skip


def backward(grad_output, hidden, weight, targets, top, log_sum, wanted):
    """Gradients of hidden [T, D] and weight [V, D] in their dtype, from grad_output [T]; None where not wanted.

    Each gradient is finished block by block from whole rows or whole columns of coefficients, which one buffer of
    1 % of T x V holds: no accumulator of the size of a gradient, no atomics.
    """
    tokens, vocabulary = len(hidden), len(weight)
    largest = grad_output.abs().amax()
    rate = grad_output / torch.where(largest > 0, largest, 1) * HEADROOM
    unit = largest / HEADROOM
    held = max(SMALLEST_BUFFER, tokens * vocabulary // 100)
    t_step, v_step = min(tokens, max(1, held // vocabulary)), min(vocabulary, max(1, held // tokens))
    buffer = torch.empty(max(t_step * vocabulary, v_step * tokens), dtype=_held(hidden.dtype), device=hidden.device)
    grad_hidden = grad_weight = None
    if wanted[0]:
        grad_hidden = torch.empty_like(hidden, dtype=_held(hidden.dtype))
        for start in range(0, tokens, t_step):
            t = slice(start, start + t_step)
            filled = _fill(buffer, hidden[t], weight, targets[t], top[t], log_sum[t], rate[t], 0)
            _multiply(filled, weight, unit, grad_hidden[t])
    if wanted[1]:
        grad_weight = torch.empty_like(weight, dtype=_held(weight.dtype))
        for start in range(0, vocabulary, v_step):
            v = slice(start, start + v_step)
            filled = _fill(buffer, hidden, weight[v], targets, top, log_sum, rate, start)
            _multiply(filled.t(), hidden, unit, grad_weight[v])
    return (None if grad is None else grad.to(hidden.dtype) for grad in (grad_hidden, grad_weight))
