"""The definition, in plain torch. Equation numbers are those of README.md in this folder.

Materialises T x V, so it is for small sizes, where the torch path takes it too.
"""

import torch

from palimpsest.kernels.tolerances import accumulation_dtype

UNDERFLOW = 2.0**-100
"""Probabilities below this are too near the smallest float32, 2^-126, to keep their relative accuracy."""


def token_logprob(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Equations (1) and (2): z = hidden weight^T, value = z_y - ln sum exp z; differentiable by autograd.

    Args:
        hidden: [T, D], any float dtype; computed in float32, or float64 for float64.
        weight: [V, D], same dtype.
        targets: [T] int64.

    Returns:
        [T] nats, float32 or float64.
    """
    dtype = accumulation_dtype(hidden.dtype)
    logits = torch.nn.functional.linear(hidden.to(dtype), weight.to(dtype))
    return logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)


def _parts(hidden, weight, targets):
    """In float64: p, one-hot targets and a = |hidden| |weight|^T, all [T, V], and the mean of a under p [T, 1]."""
    hidden, weight = hidden.double(), weight.double()
    p = (hidden @ weight.t()).softmax(-1)
    hit = torch.nn.functional.one_hot(targets, len(weight)).double()
    size = hidden.abs() @ weight.abs().t()
    return p, hit, size, (p * size).sum(-1, keepdim=True)


def error_scale(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[T] float64: what the rounding error of the value is proportional to, equation (6)."""
    _, hit, size, mean_size = _parts(hidden, weight, targets)
    value = token_logprob(hidden.double(), weight.double(), targets)
    return (hit * size).sum(-1) + mean_size[:, 0] + 1 + value.abs()


def gradient_scale(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, grad_output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, D] and [V, D] float64: the sums of |terms| of both gradients, equation (7)."""
    p, hit, size, mean_size = _parts(hidden, weight, targets)
    terms = hit + p.clamp(min=UNDERFLOW) * (1 + size + mean_size)
    if hidden.dtype in (torch.float16, torch.bfloat16):
        terms *= 2  # the coefficients (4) are rounded to this dtype as well
    terms *= grad_output.double().abs()[:, None]
    return terms @ weight.double().abs(), terms.t() @ hidden.double().abs()
