"""Unlearning: making a trained model forget some of its training data. `vision` is for image classifiers."""

from . import vision

REGISTRIES = {"vision": vision.METHODS}


def methods(domain: str) -> list[str]:
    """Sorted names of the methods for "vision". Raises ValueError for another domain."""
    if domain not in REGISTRIES:
        raise ValueError(f"domain: got {domain!r}, want one of {sorted(REGISTRIES)}")
    return sorted(REGISTRIES[domain])
