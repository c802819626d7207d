"""Wanda (Sun et al. 2024, arXiv 2306.11695): pruning by weights and activations, without an update."""

import torch

from .pattern import Pattern


def squared_norms(inputs: torch.Tensor) -> torch.Tensor:
    """‖X_j‖₂² of every input j over all tokens: [tokens, in] -> [in], float32 (float64 of float64)."""
    return inputs.to(torch.promote_types(inputs.dtype, torch.float32)).square().sum(0)


def mask(weight: torch.Tensor, norms: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Survivors by S_ij = |W_ij|·‖X_j‖₂ (paper, equation 1), compared within each output row.

    weight [out, in]; norms [in], from calibration -> bool [out, in]. N:M compares within the groups of M along
    the input dimension (paper, section 3, "structured N:M sparsity"). Our reading: a share prunes ⌊share·in + ½⌋
    weights of each row, where the released code rounds down.
    """
    return pattern.kept(weight.abs() * norms, per="row")
