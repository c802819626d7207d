"""The definition, in plain float64 torch. Equation numbers are those of README.md in this folder."""

import torch


def unpack_mask(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The bool mask, shaped as `like`, of a bool mask or of its bits."""
    if mask.dtype == torch.bool:
        return mask
    bits = mask[:, None] >> torch.arange(8, dtype=torch.uint8, device=mask.device) & 1
    return bits.view(-1)[: like.numel()].view(like.shape).bool()


def adamw(param, grad, exp_avg, exp_avg_sq, scale, step, lr, betas, eps, weight_decay):
    """Equations (1) to (4) without mask, in float64: the new parameter and moments. `scale` may be 1."""
    p, g, m, v = (x.double() for x in (param, grad, exp_avg, exp_avg_sq))
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    direction = m / (1 - betas[0] ** step) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
    return p - lr * weight_decay * p - lr * scale * direction, m, v


def update_(params, exp_avg, exp_avg_sq, grads, masks, scales, step, lr, betas, eps, weight_decay):
    """Every survivor of params, exp_avg and exp_avg_sq replaced, rounded once; the rest untouched."""
    for p, m, v, g, mask, c in zip(
        params, exp_avg, exp_avg_sq, grads, masks, scales or [torch.ones(())] * len(params), strict=True
    ):
        mask, c = unpack_mask(mask, p), c.to(p.device, torch.float64)
        for old, new in zip((p, m, v), adamw(p, g, m, v, c, step, lr, betas, eps, weight_decay), strict=True):
            old.copy_(torch.where(mask, new.to(old.dtype), old))


def error_scale(param, grad, exp_avg, exp_avg_sq, scale, step, lr, betas, eps, weight_decay):
    """Sums of |terms| of the new parameter and moments, equation (6), float64."""
    _, m, v = adamw(param, grad.abs(), exp_avg.abs(), exp_avg_sq, scale, step, lr, betas, eps, weight_decay)
    direction = m / (1 - betas[0] ** step) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
    return (1 + lr * weight_decay) * param.double().abs() + lr * abs(scale) * direction, m, v
