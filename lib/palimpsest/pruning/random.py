"""Random pruning: the control that shares a method's sparsity and nothing else."""

import torch

from .pattern import Pattern


def mask(shape: torch.Size, pattern: Pattern, generator: torch.Generator) -> torch.Tensor:
    """Survivors by lot, compared within the matrix: bool of `shape` [out, in]. `generator` is one of the CPU."""
    return pattern.kept(torch.rand(shape, generator=generator), per="matrix")
