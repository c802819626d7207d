"""The shape of a draft: a tree under the last committed token, immutable, without tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MOST = 1024
"""Most nodes of a tree: one forward verifies them all, and its mask is square in them."""


@dataclass(frozen=True)
class Tree:
    """A token tree by its parents.

    The root, the last committed token, is no node (stated by SAGE, arXiv 2602.00523: its N_max counts drafted
    tokens): one target forward verifies 1 + len(tree) rows, the root's first.

    parents: of node i the index of its parent, smaller than i, or -1 for a child of the root. Siblings stand in
    the order of their rank.

    Raises `ValueError` for a parent that does not come before its child (a cycle among them), an index below -1,
    and more than MOST nodes.
    """

    parents: tuple[int, ...]

    def __post_init__(self):
        if len(self.parents) > MOST:
            raise ValueError(f"parents: got {len(self.parents)} nodes, want at most {MOST}")
        for node, parent in enumerate(self.parents):
            if not -1 <= parent < node:
                raise ValueError(f"parents: got {parent} for node {node}, want -1 (the root) to {node - 1}")

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Of each node its distance from the root, from 1."""
        depths = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return tuple(depths)

    @property
    def depth(self) -> int:
        """The largest of `depths`, 0 for the empty tree."""
        return max(self.depths, default=0)

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Of each node how many siblings come before it: it takes its parent's (rank + 1)-th likeliest token."""
        seen: dict[int, int] = {}
        ranks = []
        for parent in self.parents:
            ranks.append(seen.get(parent, 0))
            seen[parent] = ranks[-1] + 1
        return tuple(ranks)

    @cached_property
    def _children(self) -> dict[int, tuple[int, ...]]:
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(self.parents):
            children.setdefault(parent, []).append(node)
        return {parent: tuple(nodes) for parent, nodes in children.items()}

    def children(self, node: int) -> tuple[int, ...]:
        """The children of `node` by rank; -1 stands for the root."""
        return self._children.get(node, ())

    @cached_property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """Of each leaf the nodes from the root's child down to it."""
        paths: list[tuple[int, ...]] = []
        for node, parent in enumerate(self.parents):
            paths.append(((*paths[parent], node)) if parent >= 0 else (node,))
        return tuple(paths[node] for node in range(len(self)) if node not in self._children)

    @cached_property
    def ancestors(self) -> np.ndarray:
        """[T, T] bool, read-only: j is i itself or an ancestor of i."""
        ancestors = np.eye(len(self), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                ancestors[node] |= ancestors[parent]
        ancestors.flags.writeable = False
        return ancestors

    @cached_property
    def verification(self) -> tuple[list[int], np.ndarray]:
        """Depths [1 + T] and ancestors [1 + T, 1 + T] bool of the rows that a target forward takes, root first."""
        rows = len(self) + 1
        ancestors = np.zeros((rows, rows), dtype=bool)
        ancestors[:, 0] = True
        ancestors[1:, 1:] = self.ancestors
        return [0, *self.depths], ancestors

    @classmethod
    def chain(cls, length: int) -> "Tree":
        """`length` nodes one under the other."""
        if length < 0:
            raise ValueError(f"length: got {length}, want 0 or more")
        return cls(tuple(range(-1, length - 1)))

    @classmethod
    def from_children(cls, levels: Sequence[Sequence[int]]) -> "Tree":
        """The tree in which, level by level, the nodes of the level above have so many children each.

        levels: ``((4,), (3, 2, 2, 1))`` gives the root 4 children, and these 3, 2, 2 and 1. Nodes beyond the end
        of a level's numbers have none.
        """
        parents: list[int] = []
        above = [-1]
        for depth, counts in enumerate(levels, 1):
            if len(counts) > len(above) or min(counts, default=0) < 0:
                raise ValueError(f"levels: got {tuple(counts)} for depth {depth}, want counts of {len(above)} nodes")
            first = len(parents)
            parents += [parent for parent, count in zip(above, counts, strict=False) for _ in range(count)]
            above = list(range(first, len(parents)))
        return cls(tuple(parents))

    @classmethod
    def from_counts(cls, counts: Sequence[int]) -> "Tree":
        """The tree with so many nodes at depths 1, 2, …: at each depth those whose ranks along the path sum least.

        Of equal sums the smaller last rank comes first. Ours: a likely shape where no acceptance was measured.
        """
        parents: list[int] = []
        above = [(0, -1)]  # (sum of the ranks, node)
        for depth, count in enumerate(counts, 1):
            if count < 0 or (count and not above):
                raise ValueError(
                    f"counts: got {count} at depth {depth}, want 0 or more, and none below an empty depth"
                )
            best = sorted((total + rank, rank, node) for total, node in above for rank in range(count))[:count]
            above = []
            for total, _, node in sorted(best, key=lambda entry: (entry[2], entry[1])):
                above.append((total, len(parents)))
                parents.append(node)
        return cls(tuple(parents))


SPECVLM = Tree.from_children(((4,), (3, 2, 2, 1), (3, 2, 2, 1), (3,), (2,)))
"""25 nodes, 4/8/8/3/2 by depth. Stated by SAGE (A.1, after SpecVLM): the counts. Our reading: which node has how
many children, as in the 25-node tree of EAGLE's released code, whose counts these are."""

TOKEN_RECYCLING = Tree.from_children(
    (
        (8,),
        (8, 4, 3, 2, 1, 1, 1, 1),
        (8, 3, 2, 1, 1, 1, 1, 1, 2, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1),
        (5, 2, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1),
        (3, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1),
        (2, 0, 0, 1),
    )
)
"""80 nodes, 8/21/25/15/8/3 by depth. Stated by Token Recycling (Luo et al., arXiv 2408.08696): a static tree of that
size; which one, by their released code ("2.2.2"). For `policies["static"]` with the drafter of that name."""
