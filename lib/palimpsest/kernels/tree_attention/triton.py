"""Triton kernels: equations (1) to (4) of README.md. Exponentials are to base 2 inside, as GPUs have them."""

import math

import torch
import triton
import triton.language as tl

from palimpsest.kernels._multi_tensor_triton import TYPES, narrow
from palimpsest.kernels.tolerances import accumulation_dtype

LOG2_E = 1 / math.log(2)
WORD = tl.constexpr(32)
"""Bits of a packed word, and keys of a tile of the tree: a query takes one word a tile."""
PRECISION = {torch.float64: "ieee"}
"""Of tl.dot; elsewhere three passes in TF32, which for float32 lose 2^-22 a product and for 16 bits mean nothing."""

SPLIT_TARGET = 256
"""Programs wanted, about two for each processor of a large GPU. Fixed, so that the order of summation, and with it
every bit, does not depend on the card."""
MOST_SPLITS = 63
"""Parts of the prefix: with the tree they make 64, which one program merges at once."""
SMALLEST_SPLIT = 256
"""Keys of a part below which another part costs more than it saves."""
JOINED = 1 << 14
"""Elements of a tile that merges parts, under the interpreter, which pays for each program."""


def _compiled():
    return isinstance(_attend, triton.JITFunction)


def _blocks(rows, dim, dtype):
    """Queries and keys of a tile, warps, and stages of the pipeline, chosen to fit registers and shared memory."""
    if not _compiled():
        return max(16, min(256, triton.next_power_of_2(rows))), 256, 4, 1
    queries, keys, stages = {8: (2048, 2048, 1), 4: (8192, 4096, 2), 2: (16384, 8192, 3)}[dtype.itemsize]
    block = max(16, min(128, queries // dim, triton.next_power_of_2(rows)))
    return block, max(WORD.value, min(128, keys // dim)), 8 if block * dim * dtype.itemsize > 16384 else 4, stages


@triton.jit
def _pack_words(ancestors, words, nodes, stride_b, stride_i, stride_j, ROWS: tl.constexpr):
    """Bit j % 32 of word j // 32 of row i is entry (i, j)."""
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    word, tree = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    bit = tl.arange(0, WORD)
    j = word * WORD + bit
    at = ancestors + tree * stride_b + i[:, None] * stride_i + j[None, :] * stride_j
    entries = tl.load(at, (i < nodes)[:, None] & (j < nodes)[None, :], 0).to(tl.int32)
    packed = tl.sum(entries << bit[None, :], 1)
    tl.store(words + (tree * nodes + i) * tl.num_programs(1) + word, packed, i < nodes)


@triton.jit
def _absorb(
    queries, k_at, v_at, inside, seen, best, total, weighted,
    RATE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One tile of keys joins maximum, sum and weighted values of each query, equation (3)."""
    keys = tl.load(k_at, inside, 0.0).to(OPERAND)
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION, out_dtype=ACC) * RATE
    scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(best, tl.max(scores, 1))
    top = tl.where(higher == float("-inf"), 0.0, higher)  # of what sees nothing yet there is no maximum
    factor, weights = tl.exp2(best - top), tl.exp2(scores - top[:, None])
    values = tl.load(v_at, inside, 0.0).to(OPERAND)
    total = total * factor + tl.sum(weights, 1)
    weighted = tl.dot(
        weights.to(OPERAND), values, weighted * factor[:, None], input_precision=PRECISION, out_dtype=ACC
    )
    return higher, total, weighted


@triton.jit
def _attend(
    q, k, v, words, prefix_len, best_out, total_out, weighted_out,
    nodes, group, kv_heads, width, row_blocks, splits, per_split, words_stride_b,
    q_stride_b, q_stride_h, q_stride_t, q_stride_d, k_stride_b, k_stride_h, k_stride_s, k_stride_d,
    v_stride_b, v_stride_h, v_stride_s, v_stride_d,
    RATE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr, RAGGED: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Maximum, sum and weighted values of the queries that share keys, over one part: of the prefix, or the tree."""
    cell = (tl.program_id(0) // row_blocks).to(tl.int64)
    b, shared = cell // kv_heads, cell % kv_heads
    part = tl.program_id(1).to(tl.int64)
    r = (tl.program_id(0) % row_blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows = group * nodes
    head, t = shared * group + r // nodes, r % nodes
    d = tl.arange(0, DIM).to(tl.int64)
    row_inside, column_inside = r < rows, (d < width)[None, :]
    q_at = q + b * q_stride_b + head[:, None] * q_stride_h + t[:, None] * q_stride_t + d[None, :] * q_stride_d
    queries = tl.load(q_at, row_inside[:, None] & column_inside, 0.0).to(OPERAND)
    k_row = k + b * k_stride_b + shared * k_stride_h + d[None, :] * k_stride_d
    v_row = v + b * v_stride_b + shared * v_stride_h + d[None, :] * v_stride_d
    prefix = tl.load(prefix_len + b).to(tl.int64) if RAGGED else prefix_len
    best = tl.full((ROWS,), float("-inf"), ACC)
    total = tl.zeros((ROWS,), ACC)
    weighted = tl.zeros((ROWS, DIM), ACC)
    if part < splits:
        last = tl.minimum((part + 1) * per_split, prefix)
        for start in range(part * per_split, last, KEYS):
            s = start + tl.arange(0, KEYS).to(tl.int64)
            key_inside = s < last
            inside, seen = key_inside[:, None] & column_inside, key_inside[None, :]
            best, total, weighted = _absorb(
                queries, k_row + s[:, None] * k_stride_s, v_row + s[:, None] * v_stride_s, inside, seen,
                best, total, weighted, RATE, OPERAND, PRECISION, ACC,
            )  # fmt: skip
    else:
        bit = tl.arange(0, WORD)
        count = tl.cdiv(nodes, WORD)
        for word in range(0, count):
            j = word * WORD + bit.to(tl.int64)
            s = prefix + j
            bits = tl.load(words + b * words_stride_b + t * count + word, row_inside, 0)
            seen = ((bits[:, None] >> bit[None, :]) & 1) != 0
            inside = (j < nodes)[:, None] & column_inside
            best, total, weighted = _absorb(
                queries, k_row + s[:, None] * k_stride_s, v_row + s[:, None] * v_stride_s, inside, seen,
                best, total, weighted, RATE, OPERAND, PRECISION, ACC,
            )  # fmt: skip
    at = part * (tl.num_programs(0) // row_blocks) * rows + cell * rows + r
    tl.store(best_out + at, best, row_inside)
    tl.store(total_out + at, total, row_inside)
    tl.store(weighted_out + at[:, None] * width + d[None, :], weighted, row_inside[:, None] & column_inside)


@triton.jit
def _join_parts(
    best, total, weighted, out, parts, rows, width,
    TYPE: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Equation (4): the parts of a query, merged by their log-sum-exp."""
    p = tl.arange(0, PARTS).to(tl.int64)
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, DIM).to(tl.int64)
    at = p[:, None] * rows + r[None, :]
    inside = (p < parts)[:, None] & (r < rows)[None, :]
    tops = tl.load(best + at, inside, float("-inf"))
    top = tl.max(tops, 0)
    share = tl.exp2(tops - tl.where(top == float("-inf"), 0.0, top)[None, :])
    sums = tl.sum(tl.load(total + at, inside, 0.0) * share, 0)
    values = tl.load(
        weighted + at[:, :, None] * width + d[None, None, :], inside[:, :, None] & (d < width)[None, None, :], 0.0
    )
    value = tl.sum(values * share[:, :, None], 0) / tl.where(r < rows, sums, 1.0)[:, None]
    tl.store(out + r[:, None] * width + d[None, :], narrow(value, TYPE), (r < rows)[:, None] & (d < width)[None, :])


def pack(ancestors: torch.Tensor) -> torch.Tensor:
    """[T, T] or [B, T, T] bool -> [1 or B, T, ceil(T / 32)] int32."""
    trees = (ancestors if ancestors.ndim == 3 else ancestors[None]).view(torch.uint8)
    count, nodes, _ = trees.shape
    words = torch.empty(count, nodes, triton.cdiv(nodes, WORD.value), dtype=torch.int32, device=trees.device)
    rows = min(64 if _compiled() else 1024, triton.next_power_of_2(nodes))
    _pack_words[(triton.cdiv(nodes, rows), words.shape[2], count)](trees, words, nodes, *trees.stride(), ROWS=rows)
    return words


def tree_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ancestors: torch.Tensor,
    prefix_len: int | torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """As reference.tree_attention, for B, H and T above 0."""
    (batch, heads, nodes, width), kv_heads = q.shape, k.shape[1]
    ragged, dtype = isinstance(prefix_len, torch.Tensor), accumulation_dtype(q.dtype)
    rows, dim = heads // kv_heads * nodes, max(16, triton.next_power_of_2(width))
    block, keys, warps, stages = _blocks(rows, dim, q.dtype)
    row_blocks, longest = triton.cdiv(rows, block), k.shape[2] - nodes
    wanted = min(MOST_SPLITS, max(1, SPLIT_TARGET // (row_blocks * batch * kv_heads)))
    per_split = triton.cdiv(max(SMALLEST_SPLIT, triton.cdiv(longest, wanted)), keys) * keys
    splits = triton.cdiv(longest, per_split)
    parts, total_rows = splits + 1, batch * heads * nodes
    words = pack(ancestors)
    best, total = torch.empty(2, parts, total_rows, dtype=dtype, device=q.device)
    weighted = torch.empty(parts, total_rows, width, dtype=dtype, device=q.device)
    operand = torch.float32 if q.dtype == torch.bfloat16 and not _compiled() else q.dtype
    _attend[(row_blocks * batch * kv_heads, parts)](
        q, k, v, words, prefix_len.contiguous() if ragged else prefix_len, best, total, weighted,
        nodes, heads // kv_heads, kv_heads, width, row_blocks, splits, per_split,
        words.stride(0) if len(words) > 1 else 0, *q.stride(), *k.stride(), *v.stride(),
        RATE=scale * LOG2_E, OPERAND=TYPES[operand], PRECISION=PRECISION.get(q.dtype, "tf32x3"), ACC=TYPES[dtype],
        RAGGED=ragged, ROWS=block, KEYS=keys, DIM=dim, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    merged = triton.next_power_of_2(parts)
    block = 1 if _compiled() else min(triton.next_power_of_2(total_rows), max(1, JOINED // (merged * dim)))
    _join_parts[(triton.cdiv(total_rows, block),)](
        best, total, weighted, out, parts, total_rows, width, TYPE=TYPES[q.dtype], PARTS=merged, ROWS=block, DIM=dim
    )
    return out
