"""The torch path: the k largest of a row lie in the k groups of columns with the largest maxima (README.md).

So one pass takes the maxima of the groups, and only k groups are searched. Of equal logits the lower index is
wanted, which torch.topk does not promise.
"""

import functools
import math

import numpy as np
import torch

from palimpsest.kernels.tolerances import accumulation_dtype

WIDE = 1 << 15
"""Logits of a row below which it is searched at once: the operations cost more than the search."""


FEW = 128
"""So many of the largest logits are looked at sooner in Python than by torch operations."""


@functools.cache
def _one():
    return torch.ones(())  # torch is slower to take a Python number


def _meets_equals(top):
    """Whether a row of [N, M], sorted, holds a value twice."""
    if top.numel() <= FEW:
        return any(len(set(row)) < len(row) for row in top.tolist())
    pairs = top.shape[1] - 1
    return bool((top.narrow(1, 1, pairs) == top.narrow(1, 0, pairs)).any())


def _first_k(values, k):
    """The k largest of each row of [N, M], a column that counts for nothing perhaps after them, and their positions
    [N, k]; among equals the lower position first.

    Where torch.topk meets no equals, it has no choice. Else, up to 32 bits, keys decide that no two columns share:
    the bits of a float order like integers once those of negative numbers are flipped, and the bits below them take
    the position, backwards. float64 has no room for it and is sorted.
    """
    top, positions = values.topk(min(k + 1, values.shape[1]))
    if not _meets_equals(top):
        return top, positions.narrow(1, 0, k)
    if values.dtype == torch.float64:
        top, positions = values.sort(dim=-1, descending=True, stable=True)
        return top[:, :k], positions[:, :k]
    # NaN has a sign bit; as +inf it comes first all the same. -0 + 0 = 0, so that the two zeros are equal.
    bits = (torch.where(values == values, values.float(), math.inf) + 0.0).view(torch.int32)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    back = torch.arange(values.shape[1] - 1, -1, -1, device=values.device)
    key = (order << 32).add_(back)
    positions = values.shape[1] - 1 - (key.topk(k).values & 0x7FFFFFFF)
    return values.gather(1, positions), positions


def _of_few(top, k):
    """Probabilities and alpha from the k largest of few rows: Python is through with them before torch has begun."""
    rate = 1 / math.log(k) if k > 1 else 0.0
    probs, alpha = [], []
    for row in top.tolist():
        terms = [math.exp(z - row[0]) for z in row[:k]]  # NaN, as of infinite maxima, goes through to alpha
        total = sum(terms)
        probs.append([term / total for term in terms])
        alpha.append(max(1 + rate * sum(p * math.log(p) for p in probs[-1] if p), 0.0))
    dtype = np.float64 if top.dtype == torch.float64 else np.float32
    return torch.from_numpy(np.array(probs, dtype)), torch.from_numpy(np.array(alpha, dtype))


def topk_confidence(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[N, V] -> probs [N, k], ids [N, k], alpha [N]. N is not 0."""
    rows, width = logits.shape
    size = max(1, math.isqrt(width // k))  # as many maxima to search as candidates after them
    groups = width // size
    if groups < 4 * k or width < WIDE:
        top, ids = _first_k(logits, k)
    else:
        rest = torch.arange(groups * size, width, device=logits.device).expand(rows, -1)
        maxima = logits[:, : groups * size].unflatten(1, (groups, size)).amax(-1)
        best = _first_k(maxima, k)[1].sort(dim=-1).values
        within = torch.arange(size, device=logits.device)
        candidates = torch.cat(((best[:, :, None] * size + within).flatten(1), rest), 1)
        top, positions = _first_k(logits.gather(1, candidates), k)
        ids = candidates.gather(1, positions)
    if top.is_cpu and top.numel() <= FEW:
        probs, alpha = _of_few(top, k)
        return probs, ids, alpha
    probs = top.narrow(1, 0, k).softmax(-1, dtype=accumulation_dtype(top.dtype))
    if k == 1:
        return probs, ids, probs[:, 0].clone()
    # No term of the entropy is negative, so that alpha does not exceed 1; relu_ lets NaN pass.
    return probs, ids, torch.sub(_one(), torch.special.entr(probs).sum(-1), alpha=1 / math.log(k)).relu_()
