"""The torch path: the k largest of a row lie in the k groups of columns with the largest maxima (README.md).

So one pass takes the maxima of the groups, and only k groups are searched. Of equal logits the lower index is
wanted, which torch.topk does not promise.
"""

import math

import torch

from palimpsest.kernels.tolerances import accumulation_dtype
from palimpsest.kernels.topk_confidence.reference import confidence

SMALL = 1 << 15
"""Logits below which the row is searched at once: the operations cost more than the search."""


def _first_k(values, k):
    """Positions of the k largest of each row of [N, M], the lower position first among equals: [N, k] int64.

    Where torch.topk meets no equals, it has no choice. Else, up to 32 bits, keys decide that no two columns share:
    the bits of a float order like integers once those of negative numbers are flipped, and the bits below them take
    the position, backwards. float64 has no room for it and is sorted.
    """
    top, positions = values.topk(min(k + 1, values.shape[1]), dim=-1)
    if not (top[:, 1:] == top[:, :-1]).any():
        return positions[:, :k]
    if values.dtype == torch.float64:
        return values.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    bits = (values.float() + 0.0).view(torch.int32)  # -0 + 0 = 0, so that the two zeros are equal
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    back = torch.arange(values.shape[1] - 1, -1, -1, device=values.device)
    key = (order << 32).add_(back)
    return values.shape[1] - 1 - (key.topk(k, dim=-1).values & 0x7FFFFFFF)


def topk_confidence(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[N, V] -> probs [N, k], ids [N, k], alpha [N]. N is not 0."""
    rows, width = logits.shape
    size = max(1, math.isqrt(width // k))  # as many maxima to search as candidates after them
    groups = width // size
    if groups < 4 * k or rows * width < SMALL:
        ids = _first_k(logits, k)
    else:
        rest = torch.arange(groups * size, width, device=logits.device).expand(rows, -1)
        best = _first_k(logits[:, : groups * size].unflatten(1, (groups, size)).amax(-1), k).sort(dim=-1).values
        within = torch.arange(size, device=logits.device)
        candidates = torch.cat(((best[:, :, None] * size + within).flatten(1), rest), 1)
        ids = candidates.gather(1, _first_k(logits.gather(1, candidates), k))
    probs, alpha = confidence(logits.gather(1, ids).to(accumulation_dtype(logits.dtype)))
    return probs, ids, alpha
