"""One round's draft, grown level by level: the policy says where, the drafter says what, in one call per level."""

from collections.abc import Sequence

from .distributions import Distribution
from .draft import Draft
from .drafters import Drafter
from .policies import Policy
from .stats import Clock
from .tree import Tree


def draft(
    drafter: Drafter,
    policy: Policy,
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
