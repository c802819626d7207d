"""The guide's table of changes names places that are there."""

import re

from palimpsest.runs import paths

GUIDE = paths.ROOT / "book" / "contribute.md"
PLACE = re.compile(r"`((?:lib|data|book|notebooks)/[\w./-]+)`")
NEW = {"notebooks/07_slug.py"}
"""What the reader is to make."""


def test_it_lists_ten_changes():
    rows = [line for line in GUIDE.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 10  # the head is one more


def test_every_place_is_there():
    places = set(PLACE.findall(GUIDE.read_text())) - NEW
    assert len(places) >= 10
    assert [place for place in sorted(places) if not (paths.ROOT / place).exists()] == []
