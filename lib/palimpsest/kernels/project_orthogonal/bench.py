"""Orthogonal projection beside its peers."""

import torch

from palimpsest.kernels.inputs import Draw, normal, several
from palimpsest.kernels.project_orthogonal import project_orthogonal, reference
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error

SHAPES = {
    "cpu": ((1, 65_536), (16, 16_384), (8, 1_048_576)),
    "cuda": ((1, 262_144), (62, 16_384), (16, 1_048_576), (62, 1_048_576), (272, 1_048_576)),
}
"""(T, n): T tensors of n elements."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
DIRECTIONS = ("forward",)


def _leaning(shape, generator, drawn):
    """grads_f of cosine about 0.45 with grads_r."""
    return [torch.randn(r.shape, generator=generator) + r / 2 for r in drawn["grads_r"]]


INPUTS = {"grads_r": several(normal(lambda t, n: (n,))), "grads_f": Draw(_leaning)}


ours = project_orthogonal


def eager(grads_f, grads_r):
    """The definition without care: no zero gradient, sums in float32."""
    dtypes, dtype = [r.dtype for r in grads_r], accumulation_dtype(grads_r[0].dtype)
    grads_f, grads_r = ([x.to(dtype) for x in grads] for grads in (grads_f, grads_r))
    product = sum((f * r).sum() for f, r in zip(grads_f, grads_r, strict=True))
    c = product / sum((r * r).sum() for r in grads_r)
    return [(r + (f - c * r)).to(d) for f, r, d in zip(grads_f, grads_r, dtypes, strict=True)]


def _flattened(grads_f, grads_r):
    """Both gradients copied into one vector each, and the result cut up again."""
    dtype = accumulation_dtype(grads_r[0].dtype)
    f, r = (torch.cat([x.flatten() for x in grads]).to(dtype) for grads in (grads_f, grads_r))
    flat = r + (f - f.dot(r) / r.dot(r) * r)
    pieces = flat.to(grads_r[0].dtype).split([x.numel() for x in grads_r])
    return [piece.view(x.shape) for piece, x in zip(pieces, grads_r, strict=True)]


PEERS = {"flattened": _flattened}


def bytes_moved(shape, dtype, direction):
    """Both gradients read twice, since c needs all of them before the first output; the result written."""
    tensors, n = shape
    return 5 * tensors * n * dtype.itemsize


def agreement(grads_f, grads_r):
    """The result of every tensor."""
    exact, _ = reference.project([f.double() for f in grads_f], [r.double() for r in grads_r], 1.0, "always", "model")
    scales = reference.error_scale(grads_f, grads_r, 1.0, "always", "model")
    for value, right, scale in zip(project_orthogonal(grads_f, grads_r), exact, scales, strict=True):
        yield "result", value, right, admitted_error(value.dtype, 2, scale)
