"""The definition, in plain torch. Equation numbers are those of README.md in this folder."""

import torch

from palimpsest.kernels.tolerances import accumulation_dtype, unit_roundoff

FAR = 1400.0
"""Farther below the row's maximum than this, e^t is 0 in float32 and float64. Distances are cut here, so that
a probability of zero times its logarithm is 0 also where the logit is -inf."""

UNDERFLOW = 2.0**-100
"""Probabilities below this are too near the smallest float32, 2^-126, to keep their relative accuracy."""


def softmax_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Equation (1): H = -sum_k p_k ln p_k with 0 ln 0 = 0; differentiable by autograd.

    Args:
        logits: [N, K], any float dtype; computed in float32, or float64 for float64.

    Returns:
        [N] nats, float32 or float64.
    """
    log_p = logits.to(accumulation_dtype(logits.dtype)).log_softmax(-1)
    p = log_p.exp()
    return -torch.where(p == 0, 0, p * log_p.masked_fill(p == 0, 0)).sum(-1)


def _parts(logits):
    """p, |t| and 1 + |t| in float64, [N, K]; A [N, 1]; and the error of R, [N, 1], in unit roundoffs."""
    z = logits.double()
    distance = (z.amax(-1, keepdim=True) - z).clamp(max=FAR)
    p = z.softmax(-1)
    mean = (p * distance).sum(-1, keepdim=True)
    p = p.clamp(min=UNDERFLOW)
    remainder = torch.where(distance > 0, p * (1 + distance), 0).sum(-1, keepdim=True)
    return p, distance, mean, remainder


def _share_of_one(dtype, apart):
    """How much of the rounding error of ln 1 counts: all, or what the float64 of the definition leaves."""
    return unit_roundoff(torch.float64) / unit_roundoff(accumulation_dtype(dtype)) if apart else 1.0


def error_scale(logits: torch.Tensor, apart: bool) -> torch.Tensor:
    """[N] float64: what the rounding error of H is proportional to, equation (5).

    Args:
        logits: [N, K].
        apart: the term 1 of the maximum is kept apart from R, as in triton.py; else the error has its size.
    """
    p, distance, mean, _ = _parts(logits)
    terms = torch.where(distance > 0, p * (1 + distance) * (1 + mean + distance), 0)
    return softmax_entropy(logits.double()) + terms.sum(-1) + _share_of_one(logits.dtype, apart)


def gradient_scale(logits: torch.Tensor, grad_output: torch.Tensor, apart: bool) -> torch.Tensor:
    """[N, K] float64: the sizes of the gradient's terms, equation (6); `apart` as in `error_scale`."""
    p, distance, mean, remainder = _parts(logits)
    mean_error = (p * distance * (1 + distance)).sum(-1, keepdim=True) + mean * remainder
    size = (1 + distance + remainder) * (distance + mean) + mean_error
    size = size + _share_of_one(logits.dtype, apart) * (1 + distance + softmax_entropy(logits.double())[:, None])
    return grad_output.double().abs()[:, None] * p * size
