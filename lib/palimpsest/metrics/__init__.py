"""Metrics, each defined once and tested on a case small enough to check by hand."""

from . import distances, membership, predictions, statistics

__all__ = ["distances", "membership", "predictions", "statistics"]
