"""OPT-Tree's dynamic tree: the best expected accepted length, and deeper only while that pays."""

from typing import ClassVar

from .policy import Policy, positive


class OptTree(Policy):
    """The `nodes` nodes with the largest path probability, which maximise the expected accepted length.

    Stated by OPT-Tree (Wang et al., arXiv 2406.17276): that objective, the sum of the path probabilities; drafting
    goes one level deeper while the objective rises by more than a threshold. Our reading: a node that is not among
    the best so far is not expanded, since what is below it cannot become so.

    depth: most levels; threshold: in tokens; k: children considered per node. The released code's depth of 10 counts
    the root: `RELEASED` has its 9 levels.
    """

    RELEASED: ClassVar[dict[str, float]] = {"nodes": 50, "depth": 9, "threshold": 0.1}

    online = True

    def __init__(self, nodes: int = 50, depth: int = 10, threshold: float = 0.1, k: int = 10):
        if threshold < 0:
            raise ValueError(f"threshold: got {threshold}, want 0 or more")
        self.nodes = positive("nodes", nodes)
        self.depth = positive("depth", depth)
        self.threshold = threshold
        self.k = positive("k", k)

    def grow(self, drafted, frontier, depth, signal, history):
        before = self._objective(drafted)
        first = len(drafted)
        for node in frontier:
            drafted.branch(node, self.k)
        if depth == self.depth or self._objective(drafted) - before <= self.threshold:
            return []
        return [node for node in self.select(drafted) if node >= first]

    def select(self, drafted):
        return drafted.largest(range(len(drafted)), self.nodes)

    def _objective(self, drafted):
        return sum(sorted(drafted.path_shares, reverse=True)[: self.nodes])
