"""The definition, in plain torch. Equation numbers are those of README.md in this folder."""

import math

import torch

from palimpsest.kernels.tolerances import accumulation_dtype

FAR = 2048.0
"""Cuts ln p_1 / p_i, which may be infinite: e^-2048 is 0 in both precisions, and so is its product with FAR."""


def confidence(top_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Equations (2) to (5) from the k largest logits of each row, sorted: [N, k] -> (probs [N, k], alpha [N])."""
    gap = (top_logits[:, :1] - top_logits).clamp_(max=FAR)
    terms = torch.exp(-gap)
    total = terms.sum(-1, keepdim=True)
    probs = terms / total
    if probs.shape[1] == 1:
        return probs, probs[:, 0]
    entropy = total[:, 0].log() + (probs * gap).sum(-1)
    return probs, (1 - entropy / math.log(probs.shape[1])).clamp(0, 1)


def topk_confidence(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Equations (1) to (5): a stable sort of every row, so that of equal logits the lower index comes first.

    Args:
        logits: [N, V], any float dtype; computed in float32, or float64 for float64.
        k: 1 ... V.

    Returns:
        probs [N, k] float32 or float64, ids [N, k] int64, alpha [N] in the dtype of probs.
    """
    top, ids = logits.to(accumulation_dtype(logits.dtype)).sort(dim=-1, descending=True, stable=True)
    top, ids = top[:, :k], ids[:, :k]
    probs, alpha = confidence(top)
    return probs, ids, alpha


def error_scales(probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the rounding errors of probs and alpha are proportional to, equations (6) and (7).

    Args:
        probs: [N, k] float64, exact.

    Returns:
        [N, k] and [N] float64.
    """
    size = 1 + torch.where(probs > 0, -probs.log(), 0)
    mean = (probs * size).sum(-1, keepdim=True)
    of_alpha = 1 + (probs * size * (size + mean)).sum(-1) / max(math.log(probs.shape[1]), 1)
    return probs * (size + mean), of_alpha
