"""The one rule by which random numbers derive from a seed: a draw is a function of the seed and of what it is for.

So no two purposes share their numbers, one more draw changes no other, and a run that was stopped and resumed draws
the same as one that was not.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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


@contextmanager
def seeded(seeds: Sequence[int], *purpose: str | int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generators of the CPU and of `device`, which dropout draws from, are a function of
    `seeds` and `purpose`; afterwards they are what they were."""
    gpus, seed = [device] if device.type == "cuda" else [], derived(seeds[0], *seeds[1:], *purpose)
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every GPU
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
