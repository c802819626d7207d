"""Triton kernels: equations (1) to (5) of README.md. A row is cut into parts, whose candidates are then merged."""

import math

import torch
import triton
import triton.language as tl

from palimpsest.kernels.tolerances import accumulation_dtype

LOG2_E = tl.constexpr(1 / math.log(2))
NOWHERE = tl.constexpr(2**62)
"""Above every column: the index of nothing."""

ACCUMULATOR = {torch.float32: tl.float32, torch.float64: tl.float64}


def _blocks(rows, width, k, dtype):
    """Rows and columns of a tile. A GPU gets one row and 32 KB, 64 float32 a thread; the interpreter, which pays for
    each program and each step, many rows. A part holds at least k columns, else it would pass on all it has.
    """
    if not isinstance(_candidates, triton.JITFunction):
        return min(64, triton.next_power_of_2(rows)), min(max(64, triton.next_power_of_2(k)), _columns(width))
    return 1, min(max(32768 // dtype.itemsize, triton.next_power_of_2(k)), _columns(width))


def _columns(width):
    return max(16, triton.next_power_of_2(width))


@triton.jit
def _next(x, at, inside, last, last_at):
    """Largest x after (last, last_at) in the order of falling x and rising position, and its position, of each row.

    Whatever comes after is told by comparison alone, so -inf is an entry like others and nothing is removed.
    """
    after = inside & ((x < last[:, None]) | ((x == last[:, None]) & (at > last_at[:, None])))
    best = tl.max(tl.where(after, x, float("-inf")), 1)
    first = tl.min(tl.where(after & (x == best[:, None]), at, NOWHERE), 1)
    return best, first


@triton.jit
def _candidates(
    logits, values, positions, rows, width, k, parts, stride_row, stride_col,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The k largest logits of this part of the rows and their columns; where the part has fewer, -inf and NOWHERE."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1).to(tl.int64)
    d = part * COLUMNS + tl.arange(0, COLUMNS)
    inside = (r < rows)[:, None] & (d < width)[None, :]
    x = tl.load(logits + r[:, None] * stride_row + d[None, :] * stride_col, inside, float("-inf")).to(ACC)
    x = tl.where(x != x, float("inf"), x)  # NaN comes out on top, and makes the probabilities NaN
    at = d[None, :] + tl.zeros((ROWS, COLUMNS), tl.int64)
    last = tl.full((ROWS,), float("inf"), ACC)
    last_at = tl.full((ROWS,), -1, tl.int64)
    for j in range(0, k):
        last, last_at = _next(x, at, inside, last, last_at)
        out = (r * parts + part) * k + j
        tl.store(values + out, last, r < rows)
        tl.store(positions + out, last_at, r < rows)


@triton.jit
def _merge(
    values, positions, probs, ids, alpha, rows, count, k, log2_k,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """The k first of `count` candidates, their probabilities (3) and the confidence (5)."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, COLUMNS).to(tl.int64)
    inside = (r < rows)[:, None] & (c < count)[None, :]
    x = tl.load(values + r[:, None] * count + c[None, :], inside, float("-inf"))
    at = tl.load(positions + r[:, None] * count + c[None, :], inside, NOWHERE)
    inside = inside & (at < NOWHERE)
    j_all = tl.arange(0, KEPT)
    kept = tl.full((ROWS, KEPT), float("-inf"), ACC)
    last = tl.full((ROWS,), float("inf"), ACC)
    last_at = tl.full((ROWS,), -1, tl.int64)
    for j in range(0, k):
        last, last_at = _next(x, at, inside, last, last_at)
        kept = tl.where((j_all == j)[None, :], last[:, None], kept)
        tl.store(ids + r * k + j, last_at, r < rows)
    present = (r < rows)[:, None] & (j_all < k)[None, :]
    gap = (tl.max(kept, 1)[:, None] - kept) * LOG2_E
    terms = tl.where(present, tl.exp2(-gap), 0.0)
    total = tl.where(r < rows, tl.sum(terms, 1), 1.0)
    p = terms / total[:, None]
    tl.store(probs + r[:, None] * k + j_all[None, :], p, present)
    entropy = tl.log2(total) + tl.sum(tl.where(p == 0.0, 0.0, p * gap), 1)
    confidence = tl.where(log2_k > 0.0, 1.0 - entropy / log2_k, total / total)
    confidence = tl.where(confidence < 0.0, 0.0, confidence)
    tl.store(alpha + r, tl.where(confidence > 1.0, 1.0, confidence), r < rows)


def topk_confidence(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[N, V] -> probs [N, k], ids [N, k], alpha [N]. N is not 0."""
    (rows, width), dtype = logits.shape, accumulation_dtype(logits.dtype)
    block_rows, columns = _blocks(rows, width, k, dtype)
    parts = triton.cdiv(width, columns)
    values = torch.empty(rows, parts * k, dtype=dtype, device=logits.device)
    positions = torch.empty(rows, parts * k, dtype=torch.int64, device=logits.device)
    row_blocks = triton.cdiv(rows, block_rows)
    constants = {"ACC": ACCUMULATOR[dtype], "ROWS": block_rows}
    _candidates[(row_blocks, parts)](
        logits, values, positions, rows, width, k, parts, *logits.stride(), COLUMNS=columns, **constants
    )
    probs = torch.empty(rows, k, dtype=dtype, device=logits.device)
    ids = torch.empty(rows, k, dtype=torch.int64, device=logits.device)
    alpha = torch.empty(rows, dtype=dtype, device=logits.device)
    _merge[(row_blocks,)](
        values, positions, probs, ids, alpha, rows, parts * k, k, math.log2(k),
        COLUMNS=_columns(parts * k), KEPT=triton.next_power_of_2(k), **constants,
    )  # fmt: skip
    return probs, ids, alpha
