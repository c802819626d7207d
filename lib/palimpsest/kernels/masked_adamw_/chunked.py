"""The torch path, taken on CPU: equations (1) to (4) piece by piece, so that memory is read once."""

import torch

from palimpsest.kernels.masked_adamw_.reference import unpack_mask
from palimpsest.kernels.tolerances import accumulation_dtype

PIECE = 1 << 15
"""Elements, a multiple of 8: some ten pieces in float32 are 640 kB, which most second-level caches hold."""

BRANCHES = 1 << 11
"""Elements up to which torch.where is quicker than bit operations: it branches on every element."""

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _pieces(x, bits=1):
    """Of PIECE elements, of which each entry of x holds `bits`."""
    length = PIECE // bits
    return x.view(-1).split(length) if x.numel() > length else (x,)


def _replace_(pairs, mask):
    """Every old tensor takes the bits of its new one where the mask is True; the new ones are overwritten."""
    if mask.numel() <= BRANCHES:
        for old, new in pairs:
            torch.where(mask, new, old, out=old)
        return
    ones = mask.view(torch.int8).neg()
    wide = {}
    for old, new in pairs:
        kind = INTEGERS[old.element_size()]
        if kind not in wide:
            wide[kind] = ones.to(kind)
        old, new = old.view(kind), new.view(kind)
        old.bitwise_xor_(new.bitwise_xor_(old).bitwise_and_(wide[kind]))


def _update_piece(p, m, v, g, mask, c, keep, step, numbers):
    """torch's fused AdamW turns 0 into the step -lr d, equation (3); it is scaled and added to what decay keeps."""
    dtype = accumulation_dtype(p.dtype)
    new_p = torch.zeros_like(p, dtype=dtype)
    new_m, new_v = (x.clone() if x.dtype == dtype else x.to(dtype) for x in (m, v))
    torch._fused_adamw_(
        [new_p], [g.to(dtype)], [new_m], [new_v], [], [step],
        weight_decay=0.0, amsgrad=False, maximize=False, **numbers,
    )  # fmt: skip
    if c is not None:
        new_p.mul_(c)
    new_p.add_(p, alpha=keep)
    _replace_([(old, new.to(old.dtype)) for old, new in ((p, new_p), (m, new_m), (v, new_v))], mask)


def update_(params, exp_avg, exp_avg_sq, grads, masks, scales, step, lr, betas, eps, weight_decay):
    """As reference.update_, without copies of whole tensors."""
    step = torch.scalar_tensor(step, dtype=torch.float32, device=params[0].device)
    numbers = {"lr": float(lr), "beta1": float(betas[0]), "beta2": float(betas[1]), "eps": float(eps)}
    for p, m, v, g, mask, c in zip(
        params, exp_avg, exp_avg_sq, grads, masks, scales or [None] * len(params), strict=True
    ):
        pieces = [_pieces(x) for x in (p, m, v, g)]
        mask_pieces = _pieces(mask, 1 if mask.dtype == torch.bool else 8)
        c_pieces = [None] * len(pieces[0]) if c is None else _pieces(c)
        for *tensors, bits, scale in zip(*pieces, mask_pieces, c_pieces, strict=True):
            survives = unpack_mask(bits, tensors[0])
            _update_piece(*tensors, survives, scale, 1 - lr * weight_decay, step, numbers)
