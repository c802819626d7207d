"""Policies by name: `decoding.policies["sage"](dmax=6)`."""

from .autoregressive import Autoregressive
from .chain import Chain, EntropyChain
from .eagle2 import Eagle2
from .opt_tree import OptTree
from .policy import Policy
from .sage import Sage
from .static import Static

POLICIES: dict[str, type[Policy]] = {
    "autoregressive": Autoregressive,
    "chain": Chain,
    "entropy_chain": EntropyChain,
    "static": Static,
    "sage": Sage,
    "eagle2": Eagle2,
    "opt_tree": OptTree,
}
"""Name -> class; every one can be made without arguments."""
