"""The torch path, taken on CPU: equations (2) to (4) piece by piece, so that each pass reads memory once."""

import torch

from palimpsest.kernels.tolerances import accumulation_dtype

PIECE = 1 << 15
"""Elements: three pieces in float32 are 384 kB, which the second-level cache of most cores holds."""
SAFE = (1e-25, 1e30)
"""Squared norms of a piece between these lost nothing to the range of float32, nor did the product."""


def _pieces(x):
    x = x.view(-1)
    return x.split(PIECE) if x.numel() > PIECE else (x,)


def _dots(f, r):
    return [f.dot(r).item(), f.dot(f).item(), r.dot(r).item()]


def _inner_products(f, r):
    """<f, r>, ||f||^2, ||r||^2 of two tensors; pieces are added in float64."""
    dtype, total = accumulation_dtype(r.dtype), (0.0, 0.0, 0.0)
    for a, b in zip(_pieces(f), _pieces(r), strict=True):
        if a.dtype != dtype:
            a, b = a.to(dtype), b.to(dtype)
        row = _dots(a, b)
        if not (SAFE[0] < row[1] < SAFE[1] and SAFE[0] < row[2] < SAFE[1]):
            row = _dots(a.double(), b.double())
        total = (total[0] + row[0], total[1] + row[1], total[2] + row[2])
    return total


def _keep(product, square, lam, mode):
    """1 - lam c, equations (2) and (3)."""
    c = product / square if square else 0.0
    return 1 - lam * (min(c, 0.0) if mode == "conflict" else c)


def _combine(out, f, r, keep, lam):
    """Equation (4), rounded once."""
    dtype = accumulation_dtype(r.dtype)
    for a, b, piece in zip(_pieces(f), _pieces(r), _pieces(out), strict=True):
        if b.dtype == dtype:
            torch.mul(b, keep, out=piece).add_(a, alpha=lam)
        else:
            piece.copy_(b.to(dtype).mul_(keep).add_(a, alpha=lam))


def project(grads_f, grads_r, lam, mode, scope):
    """As reference.project, without copies of whole tensors."""
    grads_f, grads_r = ([x.contiguous() for x in grads] for grads in (grads_f, grads_r))
    rows = [_inner_products(f, r) for f, r in zip(grads_f, grads_r, strict=True)]
    if scope == "model":
        keeps = [_keep(sum(row[0] for row in rows), sum(row[2] for row in rows), lam, mode)] * len(rows)
    else:
        keeps = [_keep(row[0], row[2], lam, mode) for row in rows]
    if all(x.numel() <= PIECE and x.dtype == accumulation_dtype(x.dtype) for x in grads_r):
        out = torch._foreach_mul(grads_r, keeps)
        torch._foreach_add_(out, grads_f, alpha=lam)
    else:
        out = [torch.empty_like(r) for r in grads_r]
        for arguments in zip(out, grads_f, grads_r, keeps, strict=True):
            _combine(*arguments, lam)
    return out, torch.tensor(rows, dtype=torch.float64)
