"""Where things lie: in a checkout beside the code, in an installed package inside it and in the reader's cache.
Environment variables move the large parts."""

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED = _PACKAGE / "shipped"

INSTALLED = os.path.isdir(_SHIPPED)
"""Whether this is a wheel's package, which holds the data itself (`build.wheel`); a checkout has it in `data/`."""

ROOT = _PACKAGE if INSTALLED else _PACKAGE.parents[1]
"""The checkout, the folder that holds `data/`, `notebooks/` and `book/`; of an installed package its own folder."""

DATA = Path(os.environ.get("PALIMPSEST_DATA", _SHIPPED if INSTALLED else ROOT / "data"))
"""Shipped sets, claims and recorded results."""

BUILD = platformdirs.user_cache_path("palimpsest") if INSTALLED else ROOT / "_build"
"""Everything that can be deleted: executed notebooks, site, caches."""

CACHE = Path(os.environ.get("PALIMPSEST_CACHE", BUILD / "cache"))
"""The run cache (`runs.cache`)."""


def outside(name: str) -> Path:
    """A folder of inputs too large to ship: the one that PALIMPSEST_NAME names, or `name` beside the caches."""
    return Path(os.environ.get(f"PALIMPSEST_{name.upper()}", BUILD / name))
