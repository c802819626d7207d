"""Data sets as typed splits, label noise, and the manifest that guards `data/`."""

from . import cifar10, elpv, fashion_mnist
from .labels import adjacent_noise, class_balanced_draw, symmetric_noise
from .splits import Dataset, Split

LOADERS = {"cifar10": cifar10.load, "elpv": elpv.load, "fashion-mnist": fashion_mnist.load}


def load(name: str) -> Dataset:
    """The data set called `name`: "fashion-mnist" (shipped), "cifar10" (mirror or hub), "elpv" (package).

    Raises ValueError for another name, and when a file is missing, truncated or altered.
    """
    if name not in LOADERS:
        raise ValueError(f"name: got {name!r}, want one of {sorted(LOADERS)}")
    return LOADERS[name]()


__all__ = ["Dataset", "Split", "adjacent_noise", "class_balanced_draw", "load", "symmetric_noise"]
