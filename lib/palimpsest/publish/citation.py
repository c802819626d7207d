"""CITATION.cff: who wrote the book, and the papers that it is about."""

from pathlib import Path

import yaml

SPDX = "https://spdx.org/licenses/"
"""A licence of CITATION.cff or data/MANIFEST, whose names are SPDX's, has its page under this address."""


def read(root: Path) -> dict:
    """What CITATION.cff of the checkout `root` says."""
    return yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))


def authors(citation: dict) -> list[str]:
    """The names of the book's authors, of people and of groups."""
    return [
        author.get("name") or f"{author['given-names']} {author['family-names']}" for author in citation["authors"]
    ]
