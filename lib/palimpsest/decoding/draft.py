"""What one round drafts: nodes with tokens and probabilities."""

from collections.abc import Sequence

from .distributions import Distribution


class Draft:
    """The nodes drafted so far, in level order; -1 stands for the root wherever a node is asked for.

    Lists with one entry per node: `parents`, `tokens`, `depths`, `probs` (renormalised, given the parent),
    `path_probs` (product of `probs` from the root), `path_shares` (the same product of the drafter's probabilities
    over the whole vocabulary), `distributions` (what follows the node; None where the drafter was not asked).
    """

    def __init__(self, root: Distribution):
        self.root = root
        self.parents: list[int] = []
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.probs: list[float] = []
        self.path_probs: list[float] = []
        self.path_shares: list[float] = []
        self.distributions: list[Distribution | None] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def branch(self, parent: int, count: int) -> range:
        """Give `parent`, whose distribution is known, its `count` likeliest children, or all it has."""
        if parent < 0:
            below, depth, prob, share = self.root, 1, 1.0, 1.0
        else:
            below, depth = self.distributions[parent], self.depths[parent] + 1
            prob, share = self.path_probs[parent], self.path_shares[parent]
        tokens, probs = below.tokens[:count], below.probs[:count]
        first, count = len(self.tokens), len(tokens)
        share *= below.mass
        self.parents += [parent] * count
        self.tokens += tokens
        self.depths += [depth] * count
        self.probs += probs
        self.path_probs += [prob * p for p in probs]
        self.path_shares += [share * p for p in probs]
        self.distributions += [None] * count
        return range(first, first + count)

    def largest(self, nodes: Sequence[int], count: int) -> list[int]:
        """The `count` of `nodes` with the largest `path_shares`, ascending; ties to the earlier node.

        A parent is never smaller than its child nor a sibling than the next, so that the largest of all nodes are
        a tree.
        """
        shares = self.path_shares
        return sorted(sorted(nodes, key=lambda node: (-shares[node], node))[:count])

    def kept(self, nodes: Sequence[int]) -> "Draft":
        """The draft of `nodes` alone: ascending, each with its parent."""
        smaller = Draft(self.root)
        place = {-1: -1} | {node: i for i, node in enumerate(nodes)}
        smaller.parents = [place[self.parents[node]] for node in nodes]
        for name in ("tokens", "depths", "probs", "path_probs", "path_shares", "distributions"):
            column = getattr(self, name)
            setattr(smaller, name, [column[node] for node in nodes])
        return smaller
