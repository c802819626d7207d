"""Triton kernels: equations (1) to (4) of README.md on dense tensors in the order of memory.

One read and one write forward; backward reads x and the gradient once, writes that of x, and leaves one partial sum
of the step's gradient a program and channel (or column), which torch adds.
"""

import torch
import triton
import triton.language as tl

from palimpsest.kernels._multi_tensor_triton import TYPES, narrow
from palimpsest.kernels.lsq_quantize.layout import dense, extents
from palimpsest.kernels.lsq_quantize.reference import gradient_factor
from palimpsest.kernels.tolerances import accumulation_dtype

TILE = 2048
"""Elements: 16 for each thread of 4 warps."""
INTERPRETED_TILE = 1 << 16
"""Of rows and columns alike: the interpreter pays for each program."""

COLUMNS = 64
"""Of a tile that is summed down its columns: two cache lines of float32 wide, so that it is high."""

WIDE = 128
"""Channels with this many adjacent elements are the rows of tiles; narrower ones lie side by side in columns."""

PROGRAMS = 4096
"""Wanted for a launch before programs take several tiles, about thirty for each processor of a large GPU. Fixed,
so that the order of summation does not depend on the card."""

MOST_TILES = 16
"""That one program takes."""


@triton.jit
def _code(y, QN: tl.constexpr, QP: tl.constexpr, ACC: tl.constexpr):
    """round(clip(y)), halves to even: sums with 1.5 * 2^23 (2^52 in float64) have a spacing of 1 up to 2^22."""
    # Compared, not minimised: NaN stays NaN.
    clipped = tl.where(y < QN, QN, tl.where(y > QP, QP, y))
    far = 1.5 * (8388608.0 if tl.float32 == ACC else 4503599627370496.0)
    rounded = (clipped + far) - far
    return tl.where(rounded == 0.0, clipped * 0.0, rounded)  # -0.0 stays -0.0, as in torch.round


@triton.jit
def _quotient(x, s, ACC: tl.constexpr):
    """x / s, correctly rounded, as on a CPU; the plain division of float32 is not."""
    return tl.div_rn(x, s) if tl.float32 == ACC else x / s


@triton.jit
def _steps(step, step_stride, r, k, rows, width, channels, inner, ACC: tl.constexpr, BY_ROW: tl.constexpr):
    """The steps of a tile, [ROWS, 1] or [1, COLS]: rows are channels in turn, or columns are, `inner` of each."""
    if BY_ROW:
        s = tl.load(step + r % channels * step_stride, r < rows, 1.0)[:, None]
    else:
        s = tl.load(step + k // inner * step_stride, k < width, 1.0)[None, :]
    return s.to(ACC)


@triton.jit
def _quantize(
    x, step, out, rows, width, channels, inner, step_stride,
    QN: tl.constexpr, QP: tl.constexpr, TYPE: tl.constexpr, ACC: tl.constexpr, BY_ROW: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """One [ROWS, COLS] tile of equation (1)."""
    blocks_k = tl.cdiv(width, COLS)
    r = (tl.program_id(0) // blocks_k).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = (tl.program_id(0) % blocks_k).to(tl.int64) * COLS + tl.arange(0, COLS)
    mask = (r < rows)[:, None] & (k < width)[None, :]
    offsets = r[:, None] * width + k[None, :]
    s = _steps(step, step_stride, r, k, rows, width, channels, inner, ACC, BY_ROW)
    y = _quotient(tl.load(x + offsets, mask, 0.0).to(ACC), s, ACC)
    tl.store(out + offsets, narrow(_code(y, QN, QP, ACC) * s, TYPE), mask)


@triton.jit
def _quantize_gradient(
    x, step, grad_output, grad_x, partial, rows, width, channels, inner, step_stride,
    QN: tl.constexpr, QP: tl.constexpr, TYPE: tl.constexpr, ACC: tl.constexpr, BY_ROW: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Equations (2) and (3) of TILES tiles, side by side for rows, else one below the other.

    partial: the sums of rows [rows, programs beside each other], or of columns [programs below each other, width].
    """
    blocks_k = tl.cdiv(width, COLS * TILES) if BY_ROW else tl.cdiv(width, COLS)
    block_r = (tl.program_id(0) // blocks_k).to(tl.int64)
    block_k = (tl.program_id(0) % blocks_k).to(tl.int64)
    r = block_r * (ROWS if BY_ROW else ROWS * TILES) + tl.arange(0, ROWS)
    k = block_k * (COLS * TILES if BY_ROW else COLS) + tl.arange(0, COLS)
    s = _steps(step, step_stride, r, k, rows, width, channels, inner, ACC, BY_ROW)
    total = tl.zeros((ROWS, COLS), ACC)
    for _ in range(TILES):
        mask = (r < rows)[:, None] & (k < width)[None, :]
        offsets = r[:, None] * width + k[None, :]
        y = _quotient(tl.load(x + offsets, mask, 0.0).to(ACC), s, ACC)
        g = tl.load(grad_output + offsets, mask, 0.0).to(ACC)
        inside = (y >= QN) & (y <= QP)
        tl.store(grad_x + offsets, tl.where(inside, g, 0.0).to(TYPE), mask)
        total += g * (_code(y, QN, QP, ACC) - tl.where(inside, y, 0.0))
        if BY_ROW:
            k += COLS
        else:
            r += ROWS
    if BY_ROW:
        tl.store(partial + r * blocks_k + block_k, tl.sum(total, 1), r < rows)
    else:
        tl.store(partial + block_r * width + k, tl.sum(total, 0), k < width)


def _matrix(x, step, axis):
    """Dense `x` in memory as a matrix: rows, width, adjacent elements of a channel, whether rows are channels."""
    outer, channels, inner = extents(x, step, axis)
    if channels == 1 or inner >= WIDE:
        return outer * channels, inner, inner, True
    return outer, channels * inner, inner, False


def _blocks(rows, width, by_row):
    """Rows and columns of a tile, and the tiles of a program of the backward pass."""
    compiled = isinstance(_quantize, triton.JITFunction)
    tile = TILE if compiled else INTERPRETED_TILE
    columns = min(triton.next_power_of_2(width), COLUMNS if compiled and not by_row else tile)
    height = min(triton.next_power_of_2(rows), tile // columns)
    tiles = triton.cdiv(rows, height) * triton.cdiv(width, columns)
    along = triton.cdiv(width, columns) if by_row else triton.cdiv(rows, height)
    return height, columns, triton.next_power_of_2(min(MOST_TILES, triton.cdiv(tiles, PROGRAMS), along))


def forward(x: torch.Tensor, step: torch.Tensor, qn: int, qp: int, axis: int) -> torch.Tensor:
    """Equation (1), as reference.lsq_quantize, without a graph."""
    out = torch.empty_like(x)
    rows, width, inner, by_row = _matrix(out, step, axis)
    height, columns, _ = _blocks(rows, width, by_row)
    _quantize[(triton.cdiv(rows, height) * triton.cdiv(width, columns),)](
        dense(x, out), step, out, rows, width, step.numel(), inner, step.stride(0) if step.ndim else 0,
        QN=qn, QP=qp, TYPE=TYPES[x.dtype], ACC=TYPES[accumulation_dtype(x.dtype)], BY_ROW=by_row,
        ROWS=height, COLS=columns,
    )  # fmt: skip
    return out


def backward(
    x: torch.Tensor, step: torch.Tensor, grad_output: torch.Tensor, qn: int, qp: int, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equations (2) to (4): gradients of x and of step, in their dtypes and shapes."""
    dtype = accumulation_dtype(x.dtype)
    grad_x = torch.empty_like(x)
    rows, width, inner, by_row = _matrix(grad_x, step, axis)
    height, columns, tiles = _blocks(rows, width, by_row)
    blocks_r = triton.cdiv(rows, height if by_row else height * tiles)
    blocks_k = triton.cdiv(width, columns * tiles if by_row else columns)
    partial = torch.empty((rows, blocks_k) if by_row else (blocks_r, width), dtype=dtype, device=x.device)
    _quantize_gradient[(blocks_r * blocks_k,)](
        dense(x, grad_x), step, dense(grad_output, grad_x), grad_x, partial,
        rows, width, step.numel(), inner, step.stride(0) if step.ndim else 0,
        QN=qn, QP=qp, TYPE=TYPES[x.dtype], ACC=TYPES[dtype], BY_ROW=by_row,
        ROWS=height, COLS=columns, TILES=tiles,
    )  # fmt: skip
    by_channel = partial.view(-1, step.numel(), blocks_k if by_row else inner)
    total = by_channel.sum((0, 2), dtype=torch.float64) * gradient_factor(x, step, qp)
    return grad_x, total.to(step.dtype).view(step.shape)
