"""Rivals that are no objective of `unlearn`, by name; `METHODS` of the package holds those that are."""

from palimpsest.unlearning.language.eco import ECO
from palimpsest.unlearning.language.inference import Rival
from palimpsest.unlearning.language.key_space import KeySpaceDetection
from palimpsest.unlearning.language.neuron_adjust import NeuronAdjust
from palimpsest.unlearning.language.rocr import ROCR
from palimpsest.unlearning.language.uld import ULD

RIVALS: dict[str, Rival] = {
    "ULD": ULD(),
    "ROCR": ROCR(),
    "ECO": ECO(),
    "Neuron Adjust": NeuronAdjust(),
    "Key Space Detection": KeySpaceDetection(),
}
"""Name in tables -> the method with its settings."""
