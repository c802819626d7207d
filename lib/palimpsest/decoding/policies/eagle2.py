"""EAGLE-2's dynamic tree: the drafter's own path probabilities decide."""

from typing import ClassVar

from .policy import Policy, positive


class Eagle2(Policy):
    """Expand the `top_k` best nodes of each level, then verify the best `nodes` of all.

    Stated by EAGLE-2 (Li et al., arXiv 2406.16858): a node's value is the product of the draft probabilities along
    its path; each level's top_k nodes are expanded into top_k children each; all drafted nodes are ranked again at
    the end. Our defaults, 60 nodes and 7 levels, read the paper's "60 tokens, depth 7" as it stands. The released
    code counts the root among its 60 tokens and a first level before its 7 steps: `RELEASED` has its 59 nodes and 8
    levels.
    """

    RELEASED: ClassVar[dict[str, float]] = {"nodes": 59, "depth": 8, "top_k": 10}

    online = True

    def __init__(self, nodes: int = 60, depth: int = 7, top_k: int = 10):
        self.nodes = positive("nodes", nodes)
        self.depth = positive("depth", depth)
        self.k = positive("top_k", top_k)

    def grow(self, drafted, frontier, depth, signal, history):
        grown = [child for node in frontier for child in drafted.branch(node, self.k)]
        return drafted.largest(grown, self.k) if depth < self.depth else []

    def select(self, drafted):
        return drafted.largest(range(len(drafted)), self.nodes)
