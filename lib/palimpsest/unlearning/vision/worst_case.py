"""Worst-case forget sets (Fan et al. 2024, ECCV): the samples that are still known after they were to be forgotten.

Stated by the paper (arXiv 2403.07362): a bilevel problem. Below, a network is unlearned for given weights w of the
samples; above, w ∈ {0, 1}ᴺ with Σ w = m makes Σ w_i ℓ_i of the unlearned network least. With sign descent below, the
network does not move with small changes of w, so that the upper gradient is ℓ itself. From the released code: w ←
the projection of w − step · (ℓ + 2γ w) onto 0 ≤ w ≤ 1, Σ w = m, and the m largest are the set.
Our reading: the lower problem is any method of this package, on the m largest, by its own descent; γ is small.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.checks import require_count, require_number
from palimpsest.training import logits
from palimpsest.training.seeds import generator

GAMMA = 1e-4
"""γ, of the squares of w."""


def projected(w: Tensor, size: int) -> Tensor:
    """The nearest point to each row of w [K, N] with 0 ≤ w ≤ 1 and Σ w = size: clamp(w − μ), μ by bisection."""
    if not 0 < size < w.shape[-1]:
        raise ValueError(f"size: got {size}, want 1 to {w.shape[-1] - 1}")
    low, high = w.amin(-1, keepdim=True) - 1, w.amax(-1, keepdim=True)
    for _ in range(60):  # halves of an interval of a few units: below the rounding of float64
        middle = (low + high) / 2
        above = (w - middle).clamp(0, 1).sum(-1, keepdim=True) > size
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (w - (low + high) / 2).clamp(0, 1)


def updated(w: Tensor, losses: Tensor, size: int, step: float) -> Tensor:
    """One step of the upper problem: weights and losses [K, N] -> weights."""
    return projected(w - step * (losses + 2 * GAMMA * w), size)


def largest(w: Tensor, size: int) -> Tensor:
    """Indices [K, size] of the largest weights of each row, ascending; of equal ones the first."""
    return w.argsort(dim=-1, descending=True, stable=True)[..., :size].sort(-1).values


def worst_case(
    models: list[nn.Module],
    x: Tensor,
    y: Tensor,
    size: int,
    unlearned: Callable[[list[nn.Module], Tensor], object],
    *,
    seeds: list[int],
    rounds: int = 5,
    step: float = 0.2,
) -> Tensor:
    """Indices [K, size] of the samples that are hardest to forget.

    models, x, y, seeds: K networks, as `unlearn` takes them; they stay what they are. unlearned(copies, forget): the
    lower problem, makes copies of the networks forget the indices [K, size], in place. rounds, step: of the upper
    one, which starts at a random set. ValueError for a size that leaves nothing, or counts and steps that cannot be.
    """
    require_count("rounds", rounds)
    require_number("step", step)
    require_count("size", size)
    if size > y.shape[1] - 2:
        raise ValueError(f"size: got {size}, want at most {y.shape[1] - 2} of {y.shape[1]} samples")
    drawn = [torch.randperm(y.shape[1], generator=generator(seed, "worst case"))[:size] for seed in seeds]
    w = torch.zeros(y.shape, dtype=torch.float64, device=y.device)
    w.scatter_(1, torch.stack(drawn).to(y.device), 1.0)
    for _ in range(rounds):
        copies = [copy.deepcopy(model) for model in models]
        unlearned(copies, largest(w, size))
        said = logits(copies, x).double()
        losses = F.cross_entropy(said.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
        w = updated(w, losses, size, step)
    return largest(w, size)
