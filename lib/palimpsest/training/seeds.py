"""How random numbers of training and unlearning derive from a seed: each draw is a function of its arguments only, so
that a run that was stopped and resumed draws the same as one that was not."""

import torch


def at_step(seed: int, step: int) -> torch.Generator:
    """The generator of one step, or of one epoch: what it draws does not depend on those before."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def epoch_order(samples: int, seed: int, epoch: int) -> torch.Tensor:
    """The permutation of epoch `epoch`, int64 [samples]."""
    return torch.randperm(samples, generator=at_step(seed, epoch))


def for_purpose(seed: int, epoch: int, purpose: int) -> torch.Generator:
    """The generator of one epoch for one purpose, any small integer: two purposes never share their numbers."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch * 1_009 + purpose * 31 + 7) % 2**63)
