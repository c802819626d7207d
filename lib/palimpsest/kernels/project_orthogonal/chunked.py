"""The torch path, taken on CPU: equations (2) to (4) in pieces that stay in the cache."""

import torch

from palimpsest.kernels.project_orthogonal.reference import coefficients
from palimpsest.kernels.tolerances import accumulation_dtype

CHUNK = 1 << 15
"""Elements: two pieces in float64 are 512 kB, which the second-level cache of most cores holds."""


def _inner_products(f, r):
    """<f, r>, ||f||^2, ||r||^2 of two vectors."""
    total = [0.0, 0.0, 0.0]
    for a, b in zip(f.split(CHUNK), r.split(CHUNK), strict=True):
        a, b = a.double(), b.double()
        for i, product in enumerate((a.dot(b), a.dot(a), b.dot(b))):
            total[i] += product.item()
    return total


def _combine(f, r, keep, lam):
    """keep r + lam f, in the accumulation dtype, rounded once."""
    dtype = accumulation_dtype(r.dtype)
    if r.dtype == dtype:
        return torch.mul(r, keep).add_(f, alpha=lam)
    out = torch.empty_like(r)
    for a, b, piece in zip(f.split(CHUNK), r.split(CHUNK), out.split(CHUNK), strict=True):
        piece.copy_(b.to(dtype).mul_(keep).add_(a, alpha=lam))
    return out


def project(grads_f, grads_r, lam, mode, scope):
    """As reference.project, without float64 copies of whole tensors."""
    flat_f, flat_r = ([x.contiguous().view(-1) for x in grads] for grads in (grads_f, grads_r))
    products = torch.tensor(
        [_inner_products(f, r) for f, r in zip(flat_f, flat_r, strict=True)], dtype=torch.float64
    )
    keep = (1 - lam * coefficients(products, mode, scope)).tolist()
    return [
        _combine(f, r, k, lam).view(like.shape)
        for f, r, k, like in zip(flat_f, flat_r, keep, grads_r, strict=True)
    ], products
