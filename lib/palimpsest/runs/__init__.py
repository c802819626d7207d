"""Runs: computed once and kept (`cache`), on all cores (`pool`), with a record of what computed them."""

from .cache import artifact, cached, key, shipped
from .files import require_new, write_atomic, write_folder
from .machine import environment
from .pool import alone, drain, run_all, spread, workers
from .progress import progress_bar

__all__ = [
    "alone",
    "artifact",
    "cached",
    "drain",
    "environment",
    "key",
    "progress_bar",
    "require_new",
    "run_all",
    "shipped",
    "spread",
    "workers",
    "write_atomic",
    "write_folder",
]
