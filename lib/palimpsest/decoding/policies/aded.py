"""ADED's tree: a search that weighs what is likely against what was seldom visited."""

import math

from .eagle2 import Eagle2


class Aded(Eagle2):
    """Of the nodes drafted as EAGLE-2 drafts them, the first `nodes` that a PUCT search reaches.

    Stated by ADED (Liu et al., arXiv 2407.12021, abstract): drafts are made by a search that balances exploration and
    exploitation; a summary of the paper names Monte Carlo tree search with a PUCT score. Our reading, since no
    formula of theirs could be read: a visit walks from the root to the child of largest
    P + c · P · √n / (1 + n_child), P the drafter's own probability of the child and n the visits so far, and ends at
    the first node that is new; so many visits are made as nodes are wanted. c = 0 visits the likeliest child until
    all below it is used up; large c spreads the visits in proportion to P.
    """

    def __init__(self, nodes: int = 60, depth: int = 7, top_k: int = 10, explore: float = 1.0):
        if not 0 <= explore < math.inf:
            raise ValueError(f"explore: got {explore}, want a number from 0")
        super().__init__(nodes, depth, top_k)
        self.explore = explore

    def select(self, drafted):
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(drafted.parents):
            children.setdefault(parent, []).append(node)
        left = [1] * len(drafted)  # nodes at or below that no visit has reached
        for node in reversed(range(len(drafted))):
            if (parent := drafted.parents[node]) >= 0:
                left[parent] += left[node]
        visits, kept = [0] * len(drafted), []
        for total in range(min(self.nodes, len(drafted))):
            path, node, count = [], -1, total
            while node < 0 or visits[node]:
                open_ones = [child for child in children[node] if left[child]]
                node = max(open_ones, key=lambda child: self._score(drafted, child, count, visits[child]))
                path.append(node)
                count = visits[node]
            kept.append(node)
            for node in path:
                visits[node] += 1
                left[node] -= 1
        return sorted(kept)

    def _score(self, drafted, child, count, visits):
        parent = drafted.parents[child]
        mass = (drafted.root if parent < 0 else drafted.distributions[parent]).mass
        share = drafted.probs[child] * mass
        # The earlier sibling of two alike is reached first, so that no node comes without those before it.
        return share + self.explore * share * math.sqrt(count) / (1 + visits)
