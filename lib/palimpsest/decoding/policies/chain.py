"""One drafted continuation, of fixed length or until the drafter is unsure."""

import math

from ..tree import Tree
from .policy import Policy, positive


class Chain(Policy):
    """`length` tokens, the likeliest after the likeliest (Leviathan et al. 2023; SAGE's baseline SD-Chain)."""

    def __init__(self, length: int = 4):
        self._tree = Tree.chain(positive("length", length))

    def next(self, signal, history):
        return self._tree


class EntropyChain(Policy):
    """A chain that ends with the first token whose distribution's entropy H gives 1 − √(scale · H) < threshold.

    Stated by AdaEDL (Agrawal et al., arXiv 2410.18351): that bound on the acceptance; SVIP (Zhang et al., arXiv
    2411.18462) compares √H with a threshold, which is the same rule. Our reading: H in nats over the renormalised k
    likeliest tokens, as SAGE takes it, and a fixed threshold in the place of AdaEDL's running one.

    length: most tokens.
    """

    online = True

    def __init__(self, length: int = 8, scale: float = 0.2, threshold: float = 0.5):
        if scale < 0:
            raise ValueError(f"scale: got {scale}, want 0 or more")
        self.length = positive("length", length)
        self.scale = scale
        self.threshold = threshold

    def grow(self, drafted, frontier, depth, signal, history):
        (node,) = frontier
        distribution = drafted.root if node < 0 else drafted.distributions[node]
        # Not (1 - alpha) ln k: a vocabulary may have fewer than k tokens.
        entropy = -sum(p * math.log(p) for p in distribution.probs if p > 0)
        sure = 1 - math.sqrt(self.scale * entropy) >= self.threshold
        grown = list(drafted.branch(node, 1))
        return grown if sure and depth < self.length else []
