"""Training and evaluation mode of a network that may be a reader's own: put aside, and given back as it was.

`nn.Module.train` sets every part of a network alike: what had been left in evaluation mode, a frozen batch norm say,
would not be any more.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def of(network: nn.Module) -> list[tuple[nn.Module, bool]]:
    """Every part of `network`, itself first, and whether it is in training mode."""
    return [(part, part.training) for part in network.modules()]


def put(modes: list[tuple[nn.Module, bool]]) -> None:
    """Put the parts into these modes."""
    for part, training in modes:
        part.training = training


@contextmanager
def kept(network: nn.Module) -> Iterator[None]:
    """Every part of `network` is afterwards in the mode in which it was before."""
    before = of(network)
    try:
        yield
    finally:
        put(before)


@contextmanager
def evaluation(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the former modes afterwards."""
    with kept(network):
        network.eval()
        yield


def train(network: nn.Module) -> None:
    """Training mode, but for what is frozen: a part in evaluation mode of a network in training mode, and a batch
    norm with weights none of which is to be trained.

    A network that is in evaluation mode as a whole says nothing about its parts.
    """
    frozen = [part for part, training in of(network) if (network.training and not training) or _held(part)]
    network.train()
    for part in frozen:
        part.training = False


def _held(part: nn.Module) -> bool:
    weights = list(part.parameters(recurse=False))
    norm = isinstance(part, nn.modules.batchnorm._BatchNorm)
    return norm and bool(weights) and not any(weight.requires_grad for weight in weights)
