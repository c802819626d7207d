"""The torch path: the k largest of a row lie in the k groups of columns with the largest maxima (README.md).

So one pass takes the maxima of the groups, and only k groups are searched. Of equal logits the lower index is
wanted, which torch.topk does not promise. Groups of every G-th column are quicker to take maxima of than groups of
neighbours, but say nothing about which of two equals comes first: rows in which equals could matter are done again.
"""

import functools
import math

import numpy as np
import torch

from palimpsest.kernels.tolerances import accumulation_dtype

WIDE = 1 << 12
"""Logits of a row below which it is searched at once: the operations cost more than the search."""

FAR = 800.0
"""exp(-FAR) is 0 even in float64: a logit so far below the largest adds nothing to an entropy."""

FEW = 24
"""So many of the largest logits are looked at sooner in Python than by array operations."""


@functools.cache
def _one():
    return torch.ones(())  # torch is slower to take a Python number


def _meets_equals(top):
    """Whether a row of [N, M], sorted, holds a value twice."""
    if top.numel() <= FEW:
        return any(len(set(row)) < len(row) for row in top.tolist())
    if top.is_cpu and top.element_size() >= 4:
        top = top.numpy()  # which has begun sooner
    return bool((top[:, 1:] == top[:, :-1]).any())


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
    """Probabilities and alpha from the k > 1 largest of a row: Python is through with them before torch has begun."""
    rate = 1 / math.log(k)
    probs, alpha = [], []
    for row in top.tolist():
        terms = [math.exp(z - row[0]) for z in row[:k]]  # NaN, as of infinite maxima, goes through to alpha
        total = sum(terms)
        probs.append([term / total for term in terms])
        alpha.append(max(1 + rate * sum(p * math.log(p) for p in probs[-1] if p), 0.0))
    dtype = np.float64 if top.dtype == torch.float64 else np.float32
    return torch.from_numpy(np.array(probs, dtype)), torch.from_numpy(np.array(alpha, dtype))


def _of_many(top, k):
    """The same by numpy, for H = ln S - sum_i p_i (z_i - z_1), S = sum_i e^(z_i - z_1)."""
    z = (top if top.element_size() >= 4 else top.float()).numpy()[:, :k]
    distance = np.maximum(z - z[:, :1], -FAR)  # so that 0 times -inf cannot be; NaN goes through
    probs = np.exp(distance)
    total = probs.sum(1, keepdims=True)
    probs /= total
    entropy = np.log(total[:, 0]) - np.einsum("nk,nk->n", probs, distance)
    alpha = np.maximum(1 - entropy * z.dtype.type(1 / math.log(k)), 0)
    return torch.from_numpy(probs), torch.from_numpy(alpha)


def _by_torch(top, k):
    """The same by torch, on any device."""
    probs = top.narrow(1, 0, k).to(accumulation_dtype(top.dtype)).softmax(-1)
    # No term of the entropy is negative, so that alpha does not exceed 1; relu_ lets NaN pass.
    return probs, torch.sub(_one(), torch.special.entr(probs).sum(-1), alpha=1 / math.log(k)).relu_()


def _groups(logits, k):
    """G, for as many maxima to search as candidates after them."""
    width = logits.shape[1]
    return width // max(1, math.isqrt(width // k))


def _of_neighbours(logits, k):
    """`_first_k` by groups of neighbouring columns: of equal maxima the first is that of the lower columns."""
    groups = _groups(logits, k)
    size = logits.shape[1] // groups
    maxima = logits[:, : groups * size].unflatten(1, (groups, size)).amax(-1)
    best = _first_k(maxima, k)[1].sort(dim=-1).values
    within = torch.arange(size, device=logits.device)
    return _among(logits, (best[:, :, None] * size + within).flatten(1), groups * size, lambda x: _first_k(x, k))


def _of_every_gth(logits, k):
    """The k largest and one more, their columns [N, k], and whether a row has equals that may be the wrong ones, or
    something that does not compare; by groups of every G-th column."""
    groups = _groups(logits, k)
    whole = logits.shape[1] // groups * groups
    maxima, best = logits[:, :whole].unflatten(1, (-1, groups)).amax(1).topk(k + 1)
    within = torch.arange(0, whole, groups, device=logits.device)
    candidates = (best[:, :k, None] + within).flatten(1)
    top, ids = _among(logits, candidates, whole, lambda x: x.topk(k + 1))
    distinct = (top[:, :k] > top[:, 1:]).all(1)
    return top, ids.narrow(1, 0, k), ~(distinct & (top[:, k - 1] > maxima[:, k]))


def _among(logits, candidates, whole, search):
    """What `search` finds in these columns and in those from `whole` on, by columns of the row."""
    rows, width = logits.shape
    if whole < width:
        rest = torch.arange(whole, width, device=logits.device).expand(rows, -1)
        candidates = torch.cat((candidates, rest), 1)
    top, positions = search(logits.gather(1, candidates))
    return top, candidates.gather(1, positions)


def topk_confidence(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[N, V] -> probs [N, k], ids [N, k], alpha [N]. N is not 0."""
    groups = _groups(logits, k)
    if groups < 4 * k or logits.shape[1] < WIDE:
        top, ids = _first_k(logits, k)
    elif logits.element_size() < 4:  # 16 bits hold so few values that most rows have equals
        top, ids = _of_neighbours(logits, k)
    else:
        top, ids, unsure = _of_every_gth(logits, k)
        if unsure.any():
            top[unsure, :k], ids[unsure] = (x.narrow(1, 0, k) for x in _of_neighbours(logits[unsure], k))
    if k == 1:
        probs = top.narrow(1, 0, 1).softmax(-1, dtype=accumulation_dtype(top.dtype))
        return probs, ids, probs[:, 0].clone()
    if top.is_cpu:
        probs, alpha = (_of_few if top.numel() <= FEW else _of_many)(top, k)
    else:
        probs, alpha = _by_torch(top, k)
    return probs, ids, alpha
