"""Masked AdamW beside its peers."""

import torch
from torch.optim.adamw import adamw

from palimpsest.kernels.inputs import derived, normal, several
from palimpsest.kernels.masked_adamw_ import masked_adamw_, pack_mask, reference
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error

SHAPES = {
    "cpu": ((1, 65_536), (16, 16_384), (4, 1_048_576)),
    "cuda": ((1, 262_144), (62, 16_384), (16, 1_048_576), (62, 1_048_576), (210, 589_824)),
}
"""(T, n): T tensors of n elements, half of them pruned."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
DIRECTIONS = ("forward",)
TENSORS = several(normal(lambda tensors, n: (n,)))
INPUTS = {
    "params": TENSORS,
    "grads": TENSORS,
    "exp_avg": TENSORS,
    "exp_avg_sq": derived(TENSORS, torch.square),
    "scales": derived(TENSORS, torch.abs),
    "masks": derived(TENSORS, lambda x: x < 0),
    "packed": derived("masks", pack_mask),
}
NUMBERS = {"step": 10, "lr": 1e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def ours(params, grads, exp_avg, exp_avg_sq, packed, masks, scales):
    """Bits save traffic on CUDA; on CPU they would have to be unpacked."""
    masked_adamw_(params, grads, exp_avg, exp_avg_sq, packed if params[0].is_cuda else masks, scales, **NUMBERS)


def eager(params, grads, exp_avg, exp_avg_sq, packed, masks, scales):
    """The formula tensor by tensor, with masks already unpacked."""
    (beta_1, beta_2), step, lr = NUMBERS["betas"], NUMBERS["step"], NUMBERS["lr"]
    for p, g, m, v, mask, c in zip(params, grads, exp_avg, exp_avg_sq, masks, scales, strict=True):
        dtype = accumulation_dtype(p.dtype)
        wide, g = p.to(dtype), g.to(dtype)
        new_m = m.to(dtype) * beta_1 + g * (1 - beta_1)
        new_v = v.to(dtype) * beta_2 + g * g * (1 - beta_2)
        direction = new_m / (1 - beta_1**step) / ((new_v / (1 - beta_2**step)).sqrt() + NUMBERS["eps"])
        new_p = wide * (1 - lr * NUMBERS["weight_decay"]) - lr * c * direction
        for old, new in ((p, new_p), (m, new_m), (v, new_v)):
            old.copy_(torch.where(mask, new.to(old.dtype), old))


def _fused(params, grads, exp_avg, exp_avg_sq, packed, masks, scales):
    """torch.optim.AdamW(fused=True): every weight is updated, there is neither mask nor scale."""
    steps = [torch.full((), NUMBERS["step"] - 1.0, device=p.device) for p in params]
    beta_1, beta_2 = NUMBERS["betas"]
    numbers = {name: NUMBERS[name] for name in ("lr", "eps", "weight_decay")}
    adamw(
        params, grads, exp_avg, exp_avg_sq, [], steps,
        fused=True, amsgrad=False, maximize=False, beta1=beta_1, beta2=beta_2, **numbers,
    )  # fmt: skip


PEERS = {"torch fused, unmasked": _fused}


def bytes_moved(shape, dtype, direction):
    """Gradient and scale read, parameter and both moments read and written, one bit of mask per element."""
    tensors, n = shape
    return tensors * (8 * n * dtype.itemsize + n // 8)


def agreement(params, grads, exp_avg, exp_avg_sq, packed, masks, scales):
    """Parameter and moments of every tensor; what is pruned must be equal."""
    before = params, grads, exp_avg, exp_avg_sq
    after = [[x.clone() for x in tensors] for tensors in before]
    ours(*after, packed, masks, scales)
    for i, mask in enumerate(masks):
        inputs = [tensors[i] for tensors in before] + [scales[i].double(), *NUMBERS.values()]
        exact, sizes = reference.adamw(*inputs), reference.error_scale(*inputs)
        for which, new, size in zip((0, 2, 3), exact, sizes, strict=True):
            old, value = before[which][i].double(), after[which][i]
            admitted = torch.where(mask, admitted_error(value.dtype, 4, size), 0)
            yield (
                ("parameter", "", "first moment", "second moment")[which],
                value,
                torch.where(mask, new, old),
                admitted,
            )
