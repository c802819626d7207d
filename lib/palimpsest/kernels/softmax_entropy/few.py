"""The torch path for few logits, where calls to torch count: equation (1) by entr, -p ln p, which is 0 at 0."""

import torch

from palimpsest.kernels.tolerances import accumulation_dtype

MOST = 1 << 10
"""Logits; entr is not vectorised, and from about here on that costs more than the calls that it spares."""


def forward(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[N, K] -> entropy [N] in nats, then p, -p ln p and the entropy again, all float32 (float64 for float64)."""
    dtype = accumulation_dtype(logits.dtype)
    p = logits.softmax(-1) if logits.dtype == dtype else logits.softmax(-1, dtype=dtype)
    terms = torch.special.entr(p)
    entropy = terms.sum(-1)
    return entropy, p, terms, entropy


def backward(
    logits: torch.Tensor, p: torch.Tensor, terms: torch.Tensor, entropy: torch.Tensor, grad_output: torch.Tensor
) -> torch.Tensor:
    """Gradient of the logits [N, K], in their dtype, from what `forward` gave and grad_output [N]."""
    grad = torch.addcmul(terms, p, entropy.unsqueeze(1), value=-1).mul_(grad_output.unsqueeze(1))
    return grad if grad.dtype == logits.dtype else grad.to(logits.dtype)
