"""Neighbours of the two papers' methods, by name.

A registry of its own: `unlearn` names METHODS, so a line there would give every row of chapters 2 and 3 another key.
"""

from palimpsest.unlearning.vision.datamodels import DatamodelMatching
from palimpsest.unlearning.vision.method import Method
from palimpsest.unlearning.vision.worst_case import worst_case

NEIGHBOURS: dict[str, Method] = {"DMM": DatamodelMatching()}
"""Name in tables -> the method with its settings."""

FORGET_SETS = {"worst case": worst_case}
"""Name in tables -> what chooses a forget set from trained networks."""
