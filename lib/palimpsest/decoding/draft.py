"""What one round drafts: nodes with tokens and probabilities, grown level by level, one drafter call a level."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .distributions import Distribution
from .stats import Clock
from .tree import Tree

if TYPE_CHECKING:
    from .drafters import Drafter
    from .policies.policy import Policy


class Draft:
    """The nodes drafted so far, in level order; -1 stands for the root wherever a node is asked for.

    Lists with one entry a node: `parents`, `tokens`, `depths`, `probs` (renormalised, given the parent),
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


def draft(
    drafter: "Drafter",
    policy: "Policy",
    root: Distribution,
    signal: Distribution | None,
    history: Sequence[int],
    most: int,
    clock: Clock,
) -> tuple[Draft, Tree]:
    """Draft one round's tree of depth at most `most` ≥ 1 under the root whose distribution is `root`.

    signal, history: what the policy shapes its tree by, see `Policy`.

    The tree has the draft's nodes in the draft's order.
    """
    drafted = Draft(root)
    if policy.online:
        nodes = policy.grow(drafted, [-1], 1, signal, history)
        for depth in range(2, most + 1):
            if not nodes:
                break
            _expand(drafter, drafted, nodes, clock)
            nodes = policy.grow(drafted, nodes, depth, signal, history)
        kept = policy.select(drafted)
        if len(kept) < len(drafted):
            drafter.renumber(kept)
            drafted = drafted.kept(kept)
        return drafted, Tree(tuple(drafted.parents))
    template = policy.next(signal, history)
    _fill(drafter, drafted, template, most, clock)
    parents = tuple(drafted.parents)
    # The template itself where it could be filled, since it may have its masks already.
    return drafted, template if parents == template.parents else Tree(parents)


def _fill(drafter, drafted, template, most, clock):
    """Rank by rank, level by level: each node takes its rank's token of its parent's distribution."""
    nodes, depth = {-1: -1}, 1
    while True:
        below = []
        for parent, node in nodes.items():
            children = template.children(parent)
            # A drafter that knows fewer tokens than the template has children leaves the last ones out.
            below += zip(children, drafted.branch(node, len(children)), strict=False)
        nodes = {child: node for child, node in below if template.children(child)}
        depth += 1
        if not nodes or depth > most:
            return
        _expand(drafter, drafted, list(nodes.values()), clock)


def _expand(drafter, drafted, nodes, clock):
    clock.lap("tree")
    drafter.expand(drafted, nodes)
    clock.lap("draft")
