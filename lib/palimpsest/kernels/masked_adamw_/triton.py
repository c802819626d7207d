"""Triton kernel: equations (1) to (5) of README.md, one launch for all tensors of the same dtypes."""

import torch
import triton
import triton.language as tl

from palimpsest.kernels import _multi_tensor
from palimpsest.kernels._multi_tensor_triton import TYPES, load, narrow, store
from palimpsest.kernels.tolerances import accumulation_dtype

SCALARS = tl.constexpr(7)
"""Numbers at the head of the table, in the order that update_ gives them."""
FIXED = tl.constexpr(3)
"""Entries of a table row before the addresses."""

PROGRAMS = 4096
"""Wanted for a launch, about thirty for each processor of a large GPU."""


def _blocks(elements):
    """Elements of a step and of a program, multiples of 8. A thread of 4 warps has 8 elements a step, the bits
    of one byte. The interpreter pays for each step, so it gets long ones.
    """
    if not isinstance(_masked_adamw, triton.JITFunction):
        return 4096, 8192
    return 1024, min(8192, max(1024, triton.next_power_of_2(triton.cdiv(elements, PROGRAMS))))


@triton.jit
def _number(table, i: tl.constexpr, ACC: tl.constexpr):
    return tl.load(table + i).to(tl.float64, bitcast=True).to(ACC)


@triton.jit
def _survivors(
    mask, first, n, PACKED: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr
):
    """Of the elements from `first`, a multiple of 8. A byte of a packed mask is read once for its 8 elements."""
    if PACKED:
        byte = first // 8 + tl.arange(0, BLOCK // 8)
        bits = load(mask, byte, tl.cdiv(n, 8), ALIGNED, MASKED)[:, None] >> tl.arange(0, 8)[None, :]
        survives = tl.reshape(bits & 1, (BLOCK,)) != 0
    else:
        survives = load(mask, first + tl.arange(0, BLOCK), n, ALIGNED, MASKED) != 0
    return survives


@triton.jit
def _update_chunk(
    table, row, start, n,
    TYPE: tl.constexpr, MOMENT: tl.constexpr, SCALE: tl.constexpr, ACC: tl.constexpr, PACKED: tl.constexpr,
    ALIGNED: tl.constexpr, MASKED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    keep, rate, eps = _number(table, 0, ACC), _number(table, 1, ACC), _number(table, 2, ACC)
    beta_1, rest_1 = _number(table, 3, ACC), _number(table, 4, ACC)
    beta_2, rest_2 = _number(table, 5, ACC), _number(table, 6, ACC)
    address = row + FIXED
    param = tl.load(address).to(tl.pointer_type(TYPE))
    exp_avg = tl.load(address + 1).to(tl.pointer_type(MOMENT))
    exp_avg_sq = tl.load(address + 2).to(tl.pointer_type(MOMENT))
    grad = tl.load(address + 3).to(tl.pointer_type(TYPE))
    mask = tl.load(address + 4).to(tl.pointer_type(tl.uint8))
    for step in range(0, CHUNK, BLOCK):
        offsets = start + step + tl.arange(0, BLOCK)
        survives = _survivors(mask, start + step, n, PACKED, ALIGNED, MASKED, BLOCK)
        p = load(param, offsets, n, ALIGNED, MASKED)
        m = load(exp_avg, offsets, n, ALIGNED, MASKED)
        v = load(exp_avg_sq, offsets, n, ALIGNED, MASKED)
        g = load(grad, offsets, n, ALIGNED, MASKED).to(ACC)
        new_m = beta_1 * m.to(ACC) + rest_1 * g
        new_v = beta_2 * v.to(ACC) + rest_2 * g * g
        direction = new_m / (tl.sqrt(new_v) + eps)
        if SCALE is not None:
            scale = tl.load(address + 5).to(tl.pointer_type(SCALE))
            direction *= load(scale, offsets, n, ALIGNED, MASKED).to(ACC)
        new_p = keep * p.to(ACC) - rate * direction
        # Whole tiles are stored: what is pruned gets the bits that were read.
        store(param, offsets, tl.where(survives, narrow(new_p, TYPE), p), n, ALIGNED, MASKED)
        store(exp_avg, offsets, tl.where(survives, narrow(new_m, MOMENT), m), n, ALIGNED, MASKED)
        store(exp_avg_sq, offsets, tl.where(survives, narrow(new_v, MOMENT), v), n, ALIGNED, MASKED)


@triton.jit
def _masked_adamw(
    table, owners_at, WIDTH: tl.constexpr,
    TYPE: tl.constexpr, MOMENT: tl.constexpr, SCALE: tl.constexpr, ACC: tl.constexpr, PACKED: tl.constexpr,
    ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One chunk of one tensor per program."""
    program = tl.program_id(0).to(tl.int64)
    row = table + SCALARS + tl.load(table + owners_at + program) * WIDTH
    n, start = tl.load(row), (program - tl.load(row + 1)) * CHUNK
    if start + CHUNK <= n:
        _update_chunk(table, row, start, n, TYPE, MOMENT, SCALE, ACC, PACKED, ALIGNED, False, CHUNK, BLOCK)
    else:
        _update_chunk(table, row, start, n, TYPE, MOMENT, SCALE, ACC, PACKED, ALIGNED, True, CHUNK, BLOCK)


def update_(params, exp_avg, exp_avg_sq, grads, masks, scales, step, lr, betas, eps, weight_decay):
    """As reference.update_, in one pass."""
    root = (1 - betas[1] ** step) ** 0.5
    numbers = [1 - lr * weight_decay, lr * root / (1 - betas[0] ** step), eps * root]
    numbers += [betas[0], 1 - betas[0], betas[1], 1 - betas[1]]
    tensors = list(zip(params, exp_avg, exp_avg_sq, grads, masks, *([scales] if scales else []), strict=True))
    # Of a row: parameter, first moment, mask and, if there is one, scale decide which launch it belongs to.
    kinds = [(row[0].dtype, row[1].dtype, row[4].dtype, *(c.dtype for c in row[5:])) for row in tensors]
    for kind in dict.fromkeys(kinds):
        columns = list(zip(*(row for row, other in zip(tensors, kinds, strict=True) if other == kind), strict=True))
        block, chunk = _blocks(sum(x.numel() for x in columns[0]))
        table, programs = _multi_tensor.table(numbers, columns, range(len(columns[0])), chunk)
        if programs:
            _masked_adamw[(programs,)](
                table, table.numel() - programs, WIDTH=FIXED.value + len(columns),
                TYPE=TYPES[kind[0]], MOMENT=TYPES[kind[1]], SCALE=TYPES[kind[3]] if scales else None,
                ACC=TYPES[accumulation_dtype(kind[0])], PACKED=kind[2] == torch.uint8,
                ALIGNED=_multi_tensor.aligned(columns), CHUNK=chunk, BLOCK=block,
            )  # fmt: skip
    torch.autograd.graph.increment_version([*params, *exp_avg, *exp_avg_sq])
