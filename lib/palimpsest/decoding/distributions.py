"""A drafter's next-token distribution as policies read it: the k likeliest tokens, in plain Python numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from palimpsest import kernels


class Distribution(NamedTuple):
    """The k likeliest next tokens at one node.

    SAGE, arXiv 2602.00523: equation 7 gives `probs`, equations 8 and 9 `alpha`.
    """

    tokens: Sequence[int]
    """The likeliest first; fewer than k, or none, where the drafter knows no more."""
    probs: Sequence[float]
    """Their probabilities, renormalised to sum 1, falling."""
    alpha: float
    """1 − entropy of `probs` in nats / ln k."""
    mass: float
    """Share of the whole vocabulary's probability that these tokens hold: mass · probs are the drafter's own."""


UNKNOWN = Distribution((), (), 0.0, 0.0)
"""Nothing to draft, and no confidence."""


def ranked(logits: Tensor, k: int) -> list[Distribution]:
    """[N, V] logits -> N distributions of min(k, V) tokens; of equal logits the lower token first."""
    probs, ids, alpha = kernels.topk_confidence(logits, min(k, logits.shape[1]))
    logits = logits.to(probs.dtype)
    likeliest = (logits.gather(1, ids[:, :1])[:, 0] - logits.logsumexp(-1)).exp()
    # Rounding must not make the share exceed 1: a child would then be likelier than its parent.
    rows = zip(ids.tolist(), probs.tolist(), alpha.tolist(), likeliest.tolist(), strict=True)
    return [Distribution(tokens, p, a, min(first / p[0], 1.0)) for tokens, p, a, first in rows]


def weighted(tokens: Sequence[int], weights: Sequence[float], k: int) -> Distribution:
    """The distribution that falling positive weights of at most k tokens stand for; `alpha` is 1 for k = 1."""
    total = sum(weights)
    probs = [weight / total for weight in weights]
    entropy = -sum(p * math.log(p) for p in probs)
    return Distribution(tokens, probs, 1 - entropy / math.log(k) if k > 1 else 1.0, 1.0)
