"""Magnitude pruning (Han et al. 2015, arXiv 1506.02626): the smallest weights of each matrix go."""

import torch

from .pattern import Pattern


def mask(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Survivors by |W|, compared within the matrix. [out, in] -> bool [out, in].

    Layer-wise and uniform, as the Wanda paper (arXiv 2306.11695, section 4) runs it as a baseline.
    """
    return pattern.kept(weight.abs(), per="matrix")
