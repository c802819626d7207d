"""Neighbours of SAGE by name: drafters, trees, and a decoder that is not lossless.

Registries of their own: `generate` names `policies`, so a line there would give every row of chapter 5 another key.
"""

from collections.abc import Callable

from .drafters import Drafter, ModelDrafter
from .layer_skipping import without_layers
from .policies.aded import Aded
from .policies.policy import Policy
from .superposed import SuperposedDrafter
from .switching import entropy_adaptive
from .trigrams import TrigramMatrix

DRAFTERS: dict[str, Callable[..., Drafter]] = {
    "trigrams": TrigramMatrix,
    "layer skipping": lambda target, speed_up=2.0: ModelDrafter(without_layers(target, speed_up)),
    "superposed": SuperposedDrafter,
}
"""Name -> what makes the drafter; the last two take a model first, the target and the drafter."""

POLICIES: dict[str, type[Policy]] = {"aded": Aded}
"""Name -> class, as `decoding.policies`."""

LOSSY = {"entropy adaptive": entropy_adaptive}
"""Name -> a decoder whose text is not the target's."""
