"""Runs: computed once and kept (`cache`), on all cores (`pool`), with a record of what computed them."""

from .cache import artifact, cached, key, shipped
from .files import require_new, write_atomic, write_folder
from .machine import environment
from .pool import run_all
from .progress import progress_bar

__all__ = [
    "artifact",
    "cached",
    "environment",
    "key",
    "progress_bar",
    "require_new",
    "run_all",
    "shipped",
    "write_atomic",
    "write_folder",
]
