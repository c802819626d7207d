"""Where things lie. Everything derives from the checkout; environment variables move the large parts."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
"""The checkout: the folder that holds `data/`, `notebooks/` and `book/`."""

DATA = Path(os.environ.get("PALIMPSEST_DATA", ROOT / "data"))
"""Shipped sets, claims and recorded results."""

BUILD = ROOT / "_build"
"""Everything that can be deleted: executed notebooks, site, caches."""

CACHE = Path(os.environ.get("PALIMPSEST_CACHE", BUILD / "cache"))
"""The run cache (`runs.cache`)."""


def outside(name: str) -> Path:
    """A folder of inputs too large to ship: the one that PALIMPSEST_NAME names, or `name` beside the caches."""
    return Path(os.environ.get(f"PALIMPSEST_{name.upper()}", BUILD / name))
