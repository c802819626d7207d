"""How channels lie in memory. Both paths walk dense tensors in that order, whatever their shape and strides."""

import torch


def dense(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`x` with the strides of the dense tensor `like`; copied only where it has others."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def extents(x: torch.Tensor, step: torch.Tensor, axis: int) -> tuple[int, int, int]:
    """(outer, C, inner) with which dense `x`, in the order of memory, is a contiguous [outer, C, inner]."""
    if step.numel() == 1:
        return 1, 1, x.numel()
    channels, inner = len(step), x.stride(axis)
    return x.numel() // (channels * inner), channels, inner
