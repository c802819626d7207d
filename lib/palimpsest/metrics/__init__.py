"""Metrics, each defined once and tested on a case small enough to check by hand.

A submodule is imported when its name is first used, `metrics.tofu` as well as `from palimpsest.metrics import tofu`.
"""

import importlib

__all__ = [
    "distances",
    "generation",
    "membership",
    "predictions",
    "representation",
    "statistics",
    "text_membership",
    "tofu",
]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
