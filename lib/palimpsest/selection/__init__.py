"""Core-set selection: JSCDS with every switch, and the methods it is measured against.

`select` is the one entrance, `methods` lists what it knows, `METHODS` carries each method's source and needs.
What a training run must record for the score-based methods goes into `Signals`.
"""

# Importing a method's file registers it.
from palimpsest.selection import ccs, cleanlab, herding, jscds, kcenter, moderate, scores  # noqa: F401
from palimpsest.selection.divergences import DIVERGENCES, divergence_to_centre
from palimpsest.selection.presets import PRESETS, Preset
from palimpsest.selection.registry import METHODS, methods, select
from palimpsest.selection.rules import RULES
from palimpsest.selection.signals import Signals, el2n, forgetting_events, grad_norms

__all__ = [
    "DIVERGENCES",
    "METHODS",
    "PRESETS",
    "RULES",
    "Preset",
    "Signals",
    "divergence_to_centre",
    "el2n",
    "forgetting_events",
    "grad_norms",
    "methods",
    "select",
]
