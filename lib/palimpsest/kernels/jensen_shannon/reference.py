"""The definition, in plain torch. Equation numbers are those of README.md in this folder.

Materialises N x C x D, so it is for small sizes: tests, benchmarks' correctness checks and teaching.
"""

import functools
import math

import torch

from palimpsest.kernels.tolerances import accumulation_dtype, unit_roundoff

UNDERFLOW = 2.0**-100
"""Probabilities below this are too near the smallest float32, 2^-126, to keep their relative accuracy."""


@functools.cache
def greatest_divergence(dtype: torch.dtype) -> float:
    """The largest number of `dtype` (float32 or float64) not above ln 2, so that no J exceeds its bound."""
    bound = torch.tensor(math.log(2), dtype=dtype)
    return (bound if bound.item() <= math.log(2) else torch.nextafter(bound, torch.zeros_like(bound))).item()


def _distributions(p_logits, q_logits):
    """log p, p as [N, 1, D] and log q, q as [1, C, D]."""
    log_p, log_q = p_logits.log_softmax(-1)[:, None, :], q_logits.log_softmax(-1)[None, :, :]
    return log_p, log_p.exp(), log_q, log_q.exp()


def _log_mixture(p, q):
    """ln m, m = (p + q) / 2, and 0 where m is 0, so that products with p and q stay finite there."""
    m = (p + q) / 2
    return torch.where(m > 0, m, 1).log()


def jensen_shannon(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """Equations (1) and (2): J = KL(p || m) / 2 + KL(q || m) / 2 with 0 ln 0 = 0; differentiable by autograd.

    Args:
        p_logits: [N, D], any float dtype; computed in float32, or float64 for float64.
        q_logits: [C, D], same dtype.

    Returns:
        [N, C] nats, float32 or float64.
    """
    dtype = accumulation_dtype(p_logits.dtype)
    log_p, p, log_q, q = _distributions(p_logits.to(dtype), q_logits.to(dtype))
    log_m = _log_mixture(p, q)
    kl_p = (p * torch.where(p > 0, log_p - log_m, 0)).sum(-1)
    kl_q = (q * torch.where(q > 0, log_q - log_m, 0)).sum(-1)
    return ((kl_p + kl_q) / 2).clamp(0, greatest_divergence(dtype))


def error_scale(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """[N, C] float64: what the rounding error of J is proportional to, equation (9)."""
    exact = jensen_shannon(p_logits.double(), q_logits.double())
    floor = unit_roundoff(torch.float64) / unit_roundoff(accumulation_dtype(p_logits.dtype))
    return (1 + math.log(p_logits.shape[-1])) * (exact.sqrt() + floor)


def gradient_scale(
    p_logits: torch.Tensor, q_logits: torch.Tensor, grad_output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, D] and [C, D] float64: the sums of |terms| of both gradients, equation (10)."""
    log_p, p, log_q, q = _distributions(p_logits.double(), q_logits.double())
    log_m, weight = _log_mixture(p, q), grad_output.double().abs()[:, :, None]

    def scale(log_x, x, over):
        ratio = torch.where(x > 0, log_x - log_m, 0)
        kl = (x * ratio).sum(-1, keepdim=True)
        size = 1 + torch.where(x > 0, log_x.abs(), 0) + ratio.abs() + kl
        return (weight * x.clamp(min=UNDERFLOW) * size / 2).sum(over)

    return scale(log_p, p, 1), scale(log_q, q, 0)
