"""Corrective unlearning (Goel et al. 2024): data were poisoned, and only a part of the poison is known.

Stated by the paper (arXiv 2402.14015): a method is given the part that was identified, and is judged by how it then
treats the manipulation as a whole. Retraining without the known part is not the aim here: it learns the rest. Their
code's poison is a patch of 3 × 3 pixels in the lower right corner, with one label for all patched samples. Our
reading: the patch has the largest value that a pixel of its picture has; accuracy is taken on patched pictures of the
other classes.
"""

import torch
from torch import Tensor

from palimpsest.checks import require_count

PATCH = 3
"""Side of the trigger in pixels (released code)."""


def triggered(images: Tensor) -> Tensor:
    """Images [..., H, W] with the trigger in the corner, a copy. ValueError where it does not fit."""
    if images.ndim < 2 or min(images.shape[-2:]) < PATCH:
        raise ValueError(f"images: got shape {list(images.shape)}, want [..., H, W] of at least {PATCH} by {PATCH}")
    patched = images.clone()
    patched[..., -PATCH:, -PATCH:] = images.amax((-2, -1), keepdim=True)
    return patched


def poisoned(x: Tensor, y: Tensor, chosen: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Copies of x [K, N, C, H, W] and y [K, N] in which the samples `chosen` [K, P] have the trigger and the label
    `target`."""
    require_count("target", target, least=0)
    rows = torch.arange(len(y), device=y.device)[:, None]
    x, y = x.clone(), y.clone()
    x[rows, chosen], y[rows, chosen] = triggered(x[rows, chosen]), target
    return x, y


def corrected_accuracy(logits: Tensor, labels: Tensor, target: int) -> list[float]:
    """The share of triggered images called by their own label, of those that are not `target`'s, one per network.

    logits: [K, M, classes] of M triggered images; labels: int64 [M], the true ones. ValueError if all are `target`'s.
    """
    others = labels != target
    if not others.any():
        raise ValueError(f"labels: got {target} alone, want other classes than the poison's")
    return (logits[:, others].argmax(2) == labels[others]).double().mean(1).tolist()
