"""Runs: computed once and kept (`cache`), on all cores (`pool`), with a record of what computed them."""

from .cache import artifact, cached, key, shipped
from .files import write_atomic
from .machine import environment
from .pool import run_all
from .progress import progress_bar

__all__ = ["artifact", "cached", "environment", "key", "progress_bar", "run_all", "shipped", "write_atomic"]
