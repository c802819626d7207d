"""Unlearning: making a trained model forget some of its training data.

`vision` is for image classifiers. `language` is for language models, and imported on demand, because transformers is
slow to import: `from palimpsest.unlearning import language`.
"""

from importlib import import_module

from . import vision

REGISTRIES = {"vision": vision.__name__, "language": f"{__name__}.language"}
"""Domain -> the package whose METHODS are its methods."""


def methods(domain: str) -> list[str]:
    """Sorted names of the methods for "vision" or "language". Raises ValueError for another domain."""
    if domain not in REGISTRIES:
        raise ValueError(f"domain: got {domain!r}, want one of {sorted(REGISTRIES)}")
    return sorted(import_module(REGISTRIES[domain]).METHODS)
