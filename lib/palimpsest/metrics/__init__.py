"""Metrics, each defined once and tested on a case small enough to check by hand."""

from . import statistics

__all__ = ["statistics"]
