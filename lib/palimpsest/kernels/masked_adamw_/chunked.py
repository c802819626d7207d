"""The torch path, taken on CPU: equations (1) to (5) piece by piece, so that memory is read once."""

import torch

from palimpsest.kernels.masked_adamw_.reference import unpack_mask
from palimpsest.kernels.tolerances import accumulation_dtype

PIECE = 1 << 14
"""Elements, a multiple of 8: some ten pieces in float32 are 640 kB, which most second-level caches hold."""


def _pieces(x, length=PIECE):
    x = x.view(-1)
    return x.split(length) if x.numel() > length else (x,)


def _update_piece(p, m, v, g, mask, c, keep, rate, betas, eps):
    dtype = accumulation_dtype(p.dtype)
    wide_p, wide_m, wide_v, g = (x.to(dtype) for x in (p, m, v, g))
    new_m = wide_m.lerp(g, 1 - betas[0])
    new_v = (wide_v * betas[1]).addcmul_(g, g, value=1 - betas[1])
    direction = new_v.sqrt().add_(eps)
    torch.div(new_m, direction, out=direction)
    if c is not None:
        direction.mul_(c)
    new_p = (wide_p * keep).add_(direction, alpha=-rate)
    for old, new in ((p, new_p), (m, new_m), (v, new_v)):
        torch.where(mask, new.to(old.dtype), old, out=old)


def update_(params, exp_avg, exp_avg_sq, grads, masks, scales, step, lr, betas, eps, weight_decay):
    """As reference.update_, without copies of whole tensors."""
    root = (1 - betas[1] ** step) ** 0.5
    numbers = (1 - lr * weight_decay, lr * root / (1 - betas[0] ** step), betas, eps * root)
    for p, m, v, g, mask, c in zip(
        params, exp_avg, exp_avg_sq, grads, masks, scales or [None] * len(params), strict=True
    ):
        pieces = [_pieces(x) for x in (p, m, v, g)]
        mask_pieces = _pieces(mask, PIECE if mask.dtype == torch.bool else PIECE // 8)
        c_pieces = [None] * len(pieces[0]) if c is None else _pieces(c)
        for *tensors, bits, scale in zip(*pieces, mask_pieces, c_pieces, strict=True):
            _update_piece(*tensors, unpack_mask(bits, tensors[0]), scale, *numbers)
