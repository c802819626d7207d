"""The one rule by which random numbers derive from a seed: a draw is a function of the seed and of what it is for.

So no two purposes share their numbers, one more draw changes no other, and a run that was stopped and resumed draws
the same as one that was not.
"""

import hashlib

import torch


def derived(seed: int, *purpose: str | int) -> int:
    """A seed of its own for `purpose`, in 0 .. 2^63 - 1: the first bits of sha256 over `seed` and `purpose`."""
    text = "\0".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """The random numbers for `purpose`, for example `generator(seed, "forget set")`; on the CPU."""
    return torch.Generator().manual_seed(derived(seed, *purpose))


def epoch_order(samples: int, seed: int, epoch: int) -> torch.Tensor:
    """The permutation of epoch `epoch`, int64 [samples]."""
    return torch.randperm(samples, generator=generator(seed, "epoch", epoch))
