"""The same tree every round: given, by level counts, or fitted to measured acceptance."""

from collections.abc import Iterable, Sequence

from ..tree import SPECVLM, Tree
from .policy import Policy, positive


class Static(Policy):
    """`tree`, by default the 25 nodes that SAGE's baselines use (A.1); see `fitted_tree` for one of SAGE's budget."""

    def __init__(self, tree: Tree = SPECVLM):
        positive("tree", len(tree))
        self._tree = tree
        self.k = max(Policy.k, max(tree.ranks) + 1)

    def next(self, signal, history):
        return self._tree


def fitted_tree(acceptance: Sequence[float], nodes: int, depth: int) -> Tree:
    """The tree of at most `nodes` nodes and `depth` levels with the longest expected accepted path.

    Stated by Sequoia (Chen et al., arXiv 2402.12374): a node's chance of acceptance, its parent being accepted,
    depends on its rank alone, and dynamic programming over (nodes, depth, ranks) finds the best tree. Our reading:
    the expectation counts drafted tokens only, and children take the ranks 0, 1, 2, … without a gap.

    acceptance: of ranks 0, 1, 2, … that chance, in [0, 1].
    """
    if not acceptance or not all(0 <= p <= 1 for p in acceptance):
        raise ValueError(f"acceptance: got {list(acceptance)}, want probabilities of ranks 0, 1, …")
    positive("nodes", nodes)
    positive("depth", depth)
    ranks = len(acceptance)
    # value[r][n]: best expectation below a node from its children of ranks r, r + 1, …, with n nodes in all
    value = [[0.0] * (nodes + 1) for _ in range(ranks + 1)]
    splits = []  # of each depth: [r][n] -> how many nodes the child of rank r and all below it get
    for _ in range(depth):
        below = value[0]
        value = [[0.0] * (nodes + 1) for _ in range(ranks + 1)]
        split = [[0] * (nodes + 1) for _ in range(ranks)]
        for rank in reversed(range(ranks)):
            for n in range(1, nodes + 1):
                options = (
                    acceptance[rank] * (1 + below[given - 1]) + value[rank + 1][n - given]
                    for given in range(1, n + 1)
                )
                best, given = max((gain, -given) for given, gain in enumerate(options, 1))
                if best > 0:
                    value[rank][n], split[rank][n] = best, -given
        splits.append(split)
    parents: list[int] = []
    level = [(-1, nodes)]
    for split in reversed(splits):
        level = list(_children(level, split, parents))
    return Tree(tuple(parents))


def _children(level: Iterable[tuple[int, int]], split: list[list[int]], parents: list[int]):
    """Append the children that `split` gives to (node, nodes below it) of a level; yield theirs likewise."""
    for node, left in level:
        for row in split:
            given = row[left]
            if not given:
                break
            parents.append(node)
            left -= given
            yield len(parents) - 1, given - 1


def measured_acceptance(rounds: Iterable, ranks: int) -> list[float]:
    """How often the child of rank 0, 1, … was accepted where it was offered below an accepted node.

    rounds: `stats.trace` of decodes with a tree that offers all these ranks.
    """
    offered, accepted = [0] * ranks, [0] * ranks
    for one in rounds:
        for node, chosen in zip((-1, *one.path), (*one.path, None), strict=True):
            for rank, child in enumerate(one.tree.children(node)[:ranks]):
                offered[rank] += 1
                accepted[rank] += child == chosen
    return [hits / max(trials, 1) for hits, trials in zip(accepted, offered, strict=True)]
