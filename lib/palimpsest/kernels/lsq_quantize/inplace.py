"""The torch path, taken on CPU: equations (1) to (4) in few torch calls; large tensors in pieces that stay in cache.

Masks of booleans are not vectorised on CPU, hardtanh_backward is: it compares and masks in one call.
"""

import functools
import math

import torch

from palimpsest.kernels.lsq_quantize.layout import dense, extents
from palimpsest.kernels.lsq_quantize.reference import broadcast, gradient_factor
from palimpsest.kernels.tolerances import accumulation_dtype

masked = torch.ops.aten.hardtanh_backward
"""(value, y, low, high) -> value where low < y < high, else 0."""

PIECE = 1 << 15
"""Elements for each thread: four pieces in float32, 512 KB, fit the second-level cache."""

NARROW = 64
"""Channels of fewer adjacent elements leave the vector units idle, so the steps are written out for each element."""


@functools.cache
def _neighbours(qn, qp, dtype):
    """The open interval of `dtype` that holds what qn <= y <= qp does."""
    outwards = torch.tensor([-math.inf, math.inf], dtype=dtype)
    return torch.tensor([qn, qp], dtype=dtype).nextafter(outwards).tolist()


def _cast(x, dtype):
    """Tensor.to costs a call even where there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def _quantize(x, s, qn, qp, out=None):
    return torch.div(x, s, out=out).clamp_(qn, qp).round_().mul_(s)


def _gradients(x, s, g, qn, qp):
    """Equation (2) times g, and the bracket of equation (3)."""
    y = x / s
    low, high = _neighbours(qn, qp, y.dtype)
    grad_x, inside = masked(g, y, low, high), masked(y, y, low, high)
    return grad_x, y.clamp_(qn, qp).round_().sub_(inside)


def _in_one_piece(x, step, axis):
    """Few elements, or one run of memory for each channel: weights, which are seldom large."""
    if x.numel() <= PIECE * torch.get_num_threads():
        return True
    return step.numel() > 1 and extents(torch.empty_like(x), step, axis)[0] == 1


def _pieces(step, axis, *tensors):
    """Walk dense tensors of equal strides: the steps, broadcastable, and the same piece of each tensor.

    Pieces are flat with one step, else [rows, C inner] or, where channels are wide, [rows, C, inner].
    """
    outer, channels, inner = extents(tensors[0], step, axis)
    if channels == 1:
        shape = (inner,)
    elif inner < NARROW:
        shape, step = (outer, channels * inner), step[:, None].expand(channels, inner).flatten()
    else:
        shape, step = (outer, channels, inner), step[:, None]
    strides = [math.prod(shape[i:]) for i in range(1, len(shape) + 1)]
    length = max(1, PIECE * torch.get_num_threads() // strides[0])
    for parts in zip(*(t.as_strided(shape, strides).split(length) for t in tensors), strict=True):
        yield step, *parts


def forward(x: torch.Tensor, step: torch.Tensor, qn: int, qp: int, axis: int) -> torch.Tensor:
    """Equation (1), as reference.lsq_quantize, without a graph."""
    dtype = accumulation_dtype(x.dtype)
    step = _cast(step, dtype)
    if _in_one_piece(x, step, axis):
        return _cast(_quantize(_cast(x, dtype), broadcast(step, x, axis), qn, qp), x.dtype)
    out = torch.empty_like(x)
    for s, a, b in _pieces(step, axis, dense(x, out), out):
        if x.dtype == dtype:
            _quantize(a, s, qn, qp, out=b)
        else:
            b.copy_(_quantize(a.to(dtype), s, qn, qp))
    return out


def backward(
    x: torch.Tensor, step: torch.Tensor, grad_output: torch.Tensor, qn: int, qp: int, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equations (2) to (4): gradients of x and of step, in their dtypes and shapes."""
    dtype = accumulation_dtype(x.dtype)
    steps = _cast(step, dtype)
    if _in_one_piece(x, step, axis):
        s, g = broadcast(steps, x, axis), _cast(grad_output, dtype)
        grad_x, error = _gradients(_cast(x, dtype), s, g, qn, qp)
        grad_x = _cast(grad_x, x.dtype)
        total = error.dot(g) if s.ndim == 0 and g.ndim == 1 else error.mul_(g).sum_to_size(s.shape)
    else:
        grad_x, total = _gradients_by_piece(x, steps, grad_output, qn, qp, axis, dtype)
    total = _cast(total.mul_(gradient_factor(x, step, qp)), step.dtype)
    return grad_x, total.view(step.shape) if step.ndim else total


def _gradients_by_piece(x, steps, grad_output, qn, qp, axis, dtype):
    """Gradient of x, and the sum of equation (3) for each step."""
    grad_x, parts = torch.empty_like(x), []
    for s, a, g, out in _pieces(steps, axis, dense(x, grad_x), dense(grad_output, grad_x), grad_x):
        g = _cast(g, dtype)
        grad, error = _gradients(_cast(a, dtype), s, g, qn, qp)
        out.copy_(grad)
        parts.append(error.dot(g) if g.ndim == 1 else error.mul_(g).sum(0))
    return grad_x, torch.stack(parts).sum(0).view(steps.numel(), -1).sum(1)
