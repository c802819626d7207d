"""How many weights go, and which ones are compared: a share of them, or N survivors in every M."""

import math
import re
from dataclasses import dataclass
from numbers import Real

import torch


@dataclass(frozen=True)
class Pattern:
    """A pruned share; with `group` = M, that share of every M consecutive weights along the input dimension."""

    share: float
    group: int | None = None

    @classmethod
    def parse(cls, sparsity: float | str) -> "Pattern":
        """From a share in (0, 1), or from "N:M" (Zhou et al. 2021, arXiv 2102.04010): N of every M survive."""
        if isinstance(sparsity, str):
            match = re.fullmatch(r"(\d+):(\d+)", sparsity)
            if match and 0 < int(match[1]) < int(match[2]):
                survivors, group = int(match[1]), int(match[2])
                return cls((group - survivors) / group, group)
        elif isinstance(sparsity, Real) and not isinstance(sparsity, bool) and 0 < sparsity < 1:
            return cls(float(sparsity))
        raise ValueError(f'sparsity: got {sparsity!r}, want a number in (0, 1), or "N:M" with 0 < N < M')

    def count(self, n: int) -> int:
        """How many of `n` compared weights go: ⌊share·n + ½⌋. ValueError where that is none or all of them."""
        pruned = math.floor(self.share * n + 0.5)
        if not 0 < pruned < n:
            raise ValueError(
                f"sparsity: {self.share:g} prunes {pruned} of {n} compared weights, want at least one to go and "
                "one to stay"
            )
        return pruned

    def require_fits(self, shape: torch.Size) -> None:
        """ValueError where the inputs of a weight [out, in] do not divide into groups of M."""
        if self.group and shape[1] % self.group:
            raise ValueError(f"sparsity: got groups of {self.group}, want a divisor of the {shape[1]} inputs")

    def kept(self, scores: torch.Tensor, *, per: str) -> torch.Tensor:
        """The survivors: bool [out, in], True where the score [out, in] is among the largest of its comparison.

        Weights are compared within their group of M; without groups, within their output row (`per="row"`) or
        the whole matrix (`per="matrix"`).
        """
        self.require_fits(scores.shape)
        width = self.group or {"row": scores.shape[1], "matrix": scores.numel()}[per]
        return survivors(scores.reshape(-1, width), self.count(width)).view(scores.shape)


def survivors(scores: torch.Tensor, pruned: int) -> torch.Tensor:
    """[R, C] -> bool [R, C], False at the `pruned` lowest of each row; of equal scores the leftmost go first."""
    # Selection, then a count among equals: three times faster here than a stable sort.
    border = scores.kthvalue(max(pruned, 1), dim=1, keepdim=True).values
    below, equal = scores < border, scores == border
    room = pruned - below.sum(1, keepdim=True)
    return ~(below | (equal & (equal.cumsum(1) <= room)))
