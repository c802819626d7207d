"""The torch path, taken on CPU: equations (2) to (4) piece by piece, so that each pass reads memory once."""

import torch

from palimpsest.kernels.tolerances import accumulation_dtype

PIECE = 1 << 16
"""Elements: two pieces in float32 are 512 kB, which the second-level cache of most cores holds."""
SAFE = (1e-25, 1e30)
"""Squared norms of a piece between these lost nothing to the range of float32, nor did the product."""


def _pieces(x):
    return x.view(-1).split(PIECE) if x.numel() > PIECE else (x,)


def _dots(f, r):
    return f.dot(r).item(), f.dot(f).item(), r.dot(r).item()


def _products_of_piece(f, r):
    dtype = accumulation_dtype(r.dtype)
    if r.ndim != 1:
        f, r = f.view(-1), r.view(-1)
    if r.dtype != dtype:
        f, r = f.to(dtype), r.to(dtype)
    row = _dots(f, r)
    if SAFE[0] < row[1] < SAFE[1] and SAFE[0] < row[2] < SAFE[1]:
        return row
    return _dots(f.double(), r.double())


def _inner_products(f, r):
    """<f, r>, ||f||^2, ||r||^2 of two tensors; pieces are added in float64."""
    rows = [_products_of_piece(a, b) for a, b in zip(_pieces(f), _pieces(r), strict=True)]
    return rows[0] if len(rows) == 1 else tuple(map(sum, zip(*rows, strict=True)))


def _keep(product, square, lam, mode):
    """1 - lam c, equations (2) and (3)."""
    c = product / square if square else 0.0
    return 1 - lam * (min(c, 0.0) if mode == "conflict" else c)


def _combine(f, r, keep, lam):
    """Equation (4), rounded once to the stored dtype. torch refuses a `keep` beyond the range of its tensors."""
    dtype = accumulation_dtype(r.dtype) if abs(keep) < SAFE[1] else torch.float64
    if lam == 1 and r.dtype == dtype:
        return torch.add(f, r, alpha=keep)
    out = torch.empty_like(r)
    for a, b, piece in zip(_pieces(f), _pieces(r), _pieces(out), strict=True):
        if b.dtype == dtype:
            torch.mul(a, lam, out=piece).add_(b, alpha=keep)
        else:
            piece.copy_(a.to(dtype).mul_(lam).add_(b, alpha=keep))
    return out


def project(grads_f, grads_r, lam, mode, scope):
    """As reference.project, but with the inner products as a list of T rows. Copies only what is not contiguous."""
    grads_f, grads_r = ([x.contiguous() for x in grads] for grads in (grads_f, grads_r))
    rows = list(map(_inner_products, grads_f, grads_r))
    if scope == "model":
        keeps = [_keep(sum(row[0] for row in rows), sum(row[2] for row in rows), lam, mode)] * len(rows)
    else:
        keeps = [_keep(row[0], row[2], lam, mode) for row in rows]
    return [_combine(f, r, keep, lam) for f, r, keep in zip(grads_f, grads_r, keeps, strict=True)], rows
