"""Triton kernels: equations (2) to (4) of README.md, one launch for all tensors of a dtype."""

import torch
import triton
import triton.language as tl

from palimpsest.kernels import _multi_tensor
from palimpsest.kernels._multi_tensor_triton import TYPES, load, narrow, store
from palimpsest.kernels.tolerances import accumulation_dtype

SCALARS = tl.constexpr(1)
"""Numbers at the head of the table: lam."""
ROW = tl.constexpr(6)
"""Entries of a table row: elements, first program, tensor, and the addresses of g_f, g_r and the result."""

PROGRAMS = 4096
"""Wanted for a launch, about thirty for each processor of a large GPU. Fixed, so that the order of summation
does not depend on the card."""


def _blocks(elements):
    """Elements of a step and of a program, and partial sums that are added at once. A thread of 4 warps loads 8
    elements of each gradient per step, and keeps 24 sums in float64. The interpreter pays for each step, so it
    gets long ones.
    """
    if not isinstance(_inner_products, triton.JITFunction):
        return 4096, 8192, 16
    return 1024, min(16384, max(1024, triton.next_power_of_2(triton.cdiv(elements, PROGRAMS)))), 256


@triton.jit
def _chunk_products(
    f, r, start, n, ALIGNED: tl.constexpr, MASKED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    fr, ff, rr = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for step in range(0, CHUNK, BLOCK):
        offsets = start + step + tl.arange(0, BLOCK)
        x = load(f, offsets, n, ALIGNED, MASKED).to(tl.float64)
        y = load(r, offsets, n, ALIGNED, MASKED).to(tl.float64)
        fr += x * y
        ff += x * x
        rr += y * y
    return tl.sum(fr, 0), tl.sum(ff, 0), tl.sum(rr, 0)


@triton.jit
def _inner_products(
    table, owners_at, partial, programs,
    TYPE: tl.constexpr, ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """partial [3, programs]: the inner products of one chunk per program."""
    program = tl.program_id(0).to(tl.int64)
    row = table + SCALARS + tl.load(table + owners_at + program) * ROW
    n, start = tl.load(row), (program - tl.load(row + 1)) * CHUNK
    f, r = tl.load(row + 3).to(tl.pointer_type(TYPE)), tl.load(row + 4).to(tl.pointer_type(TYPE))
    if start + CHUNK <= n:
        fr, ff, rr = _chunk_products(f, r, start, n, ALIGNED, False, CHUNK, BLOCK)
    else:
        fr, ff, rr = _chunk_products(f, r, start, n, ALIGNED, True, CHUNK, BLOCK)
    tl.store(partial + program, fr)
    tl.store(partial + programs + program, ff)
    tl.store(partial + 2 * programs + program, rr)


@triton.jit
def _sum_chunks(table, partial, products, programs, CHUNK: tl.constexpr, SUMS: tl.constexpr):
    """products [T, 3]: the partial sums of one tensor per program, added in a fixed order."""
    row = table + SCALARS + tl.program_id(0).to(tl.int64) * ROW
    first, chunks = tl.load(row + 1), tl.cdiv(tl.load(row), CHUNK)
    for which in tl.static_range(3):
        total = tl.zeros((SUMS,), tl.float64)
        for start in range(0, chunks, SUMS):
            chunk = start + tl.arange(0, SUMS)
            total += tl.load(partial + which * programs + first + chunk, chunk < chunks, 0.0)
        tl.store(products + tl.load(row + 2) * 3 + which, tl.sum(total, 0))


@triton.jit
def _combine_chunk(
    f, r, out, keep, lam, start, n,
    TYPE: tl.constexpr, ACC: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    for step in range(0, CHUNK, BLOCK):
        offsets = start + step + tl.arange(0, BLOCK)
        x = load(f, offsets, n, ALIGNED, MASKED).to(ACC)
        y = load(r, offsets, n, ALIGNED, MASKED).to(ACC)
        store(out, offsets, narrow(keep * y + lam * x, TYPE), n, ALIGNED, MASKED)


@triton.jit
def _combine(
    table, owners_at, products, tensors,
    TYPE: tl.constexpr, ACC: tl.constexpr, ON_CONFLICT: tl.constexpr, PER_LAYER: tl.constexpr,
    ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Equation (4). With one c for the model each program adds the products of all tensors, in one order."""
    program = tl.program_id(0).to(tl.int64)
    row = table + SCALARS + tl.load(table + owners_at + program) * ROW
    if PER_LAYER:
        product, square = tl.load(products + tl.load(row + 2) * 3), tl.load(products + tl.load(row + 2) * 3 + 2)
    else:
        fr, rr = tl.zeros((SUMS,), tl.float64), tl.zeros((SUMS,), tl.float64)
        for first in range(0, tensors, SUMS):
            tensor = first + tl.arange(0, SUMS)
            fr += tl.load(products + tensor * 3, tensor < tensors, 0.0)
            rr += tl.load(products + tensor * 3 + 2, tensor < tensors, 0.0)
        product, square = tl.sum(fr, 0), tl.sum(rr, 0)
    # Compared with 0 so that NaN stays NaN.
    c = tl.where(square == 0.0, 0.0, product / tl.where(square == 0.0, 1.0, square))
    if ON_CONFLICT:
        c = tl.where(c > 0.0, 0.0, c)
    lam = tl.load(table).to(tl.float64, bitcast=True)
    keep = (1.0 - lam * c).to(ACC)
    lam = lam.to(ACC)
    n, start = tl.load(row), (program - tl.load(row + 1)) * CHUNK
    f, r = tl.load(row + 3).to(tl.pointer_type(TYPE)), tl.load(row + 4).to(tl.pointer_type(TYPE))
    out = tl.load(row + 5).to(tl.pointer_type(TYPE))
    if start + CHUNK <= n:
        _combine_chunk(f, r, out, keep, lam, start, n, TYPE, ACC, ALIGNED, False, CHUNK, BLOCK)
    else:
        _combine_chunk(f, r, out, keep, lam, start, n, TYPE, ACC, ALIGNED, True, CHUNK, BLOCK)


def project(grads_f, grads_r, lam, mode, scope):
    """As reference.project. Two passes: inner products, then the combination. No atomics."""
    device = grads_r[0].device
    flat_f, flat_r = ([x.contiguous() for x in grads] for grads in (grads_f, grads_r))
    out = [torch.empty_like(r) for r in flat_r]
    products = torch.empty(len(out), 3, dtype=torch.float64, device=device)
    launches = []
    for dtype in dict.fromkeys(x.dtype for x in out):
        members = [i for i, x in enumerate(out) if x.dtype == dtype]
        columns = [[tensors[i] for i in members] for tensors in (flat_f, flat_r, out)]
        block, chunk, sums = _blocks(sum(x.numel() for x in columns[0]))
        table, programs = _multi_tensor.table([lam], columns, members, chunk)
        owners_at = table.numel() - programs
        how = {"TYPE": TYPES[dtype], "ALIGNED": _multi_tensor.aligned(columns), "CHUNK": chunk, "BLOCK": block}
        partial = torch.empty(3, programs, dtype=torch.float64, device=device)
        if programs:
            _inner_products[(programs,)](table, owners_at, partial, programs, **how)
            launches.append((programs, table, owners_at, TYPES[accumulation_dtype(dtype)], how))
        _sum_chunks[(len(members),)](table, partial, products, programs, CHUNK=chunk, SUMS=sums)
    for programs, table, owners_at, acc, how in launches:
        _combine[(programs,)](
            table, owners_at, products, len(out),
            ACC=acc, ON_CONFLICT=mode == "conflict", PER_LAYER=scope == "layer", SUMS=sums, **how,
        )  # fmt: skip
    return out, products
