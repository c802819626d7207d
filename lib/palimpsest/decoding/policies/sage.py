"""SAGE: the entropy of one round's draft shapes the next round's tree."""

import math
from collections.abc import Sequence

from ..distributions import Distribution
from ..draft import Draft
from ..tree import SPECVLM, Tree
from .policy import Policy, positive

OPTIONS = {
    "source": ("root", "deepest", "mean", "current"),
    "tree": ("template", "online"),
    "threshold": ("path", "token"),
    "rounding": ("nearest", "floor"),
    "width": ("inverse", "constant"),
    "adapt": ("range", "cap", "off"),
}

START_ALPHA = 0.5
"""Section 5.1. Beside a start tree it has no use."""


class Sage(Policy):
    """Depth grows and width falls with the drafter's confidence alpha (arXiv 2602.00523).

    Stated by the paper, with its constants as defaults (section 5.1): equations 7 to 12, the threshold
    `scale` l / D(alpha) at level l (0.1), the stop at depth D(alpha) or `nodes` nodes, the start tree (SpecVLM's 25
    nodes), and a history of `window` rounds: fewer than `low` drafts accepted on average lower the depth, more than
    `high` raise it.

    Where the paper leaves a choice, ours is the first of each option:
        source: the distribution that alpha and the tree come from. Of the round before: at its "root", at the
            "deepest" accepted node that has one, or the "mean" over its nodes, by rank; or at the "current" root,
            which is no look-ahead.
        tree: by rank from that one distribution ("template", the paper's algorithm 1 to the letter), or from each
            node's own ("online").
        threshold: what must reach it, the product of probabilities along the "path" (the paper's formula), or the
            "token"'s alone (its prose).
        rounding: D to the "nearest" integer and at least one child, or "floor" for both.
        adapt: the history moves, in steps of 1 between dmin and dmax, the dmax of equation 10 ("range"), or a "cap"
            on D(alpha); or it does nothing ("off").
        width: "inverse" to alpha as in equation 11, or "constant" at the middle of wmin and wmax (ours, a control).

    The history's mean is that of the last `window` rounds or of all there are, and every round counts. P_parent of
    equation 12 is the parent token's renormalised probability. The tree is grown breadth-first up to `nodes`. The
    first round takes `start`; of "online" trees, which no template can stand for, it takes the start value of alpha.
    """

    def __init__(
        self,
        *,
        dmin: int = 3,
        dmax: int = 8,
        wmin: int = 2,
        wmax: int = 10,
        k: int = 10,
        nodes: int = 64,
        window: int = 10,
        low: float = 2,
        high: float = 3,
        source: str = "root",
        tree: str = "template",
        threshold: str = "path",
        scale: float = 0.1,
        rounding: str = "nearest",
        adapt: str = "range",
        width: str = "inverse",
        start: Tree = SPECVLM,
    ):
        options = {"source": source, "tree": tree, "threshold": threshold, "rounding": rounding}
        for name, value in (options | {"adapt": adapt, "width": width}).items():
            if value not in OPTIONS[name]:
                raise ValueError(f"{name}: got {value!r}, want one of {', '.join(map(repr, OPTIONS[name]))}")
        if positive("dmax", dmax) < positive("dmin", dmin):
            raise ValueError(f"dmax: got {dmax}, want at least dmin, {dmin}")
        if positive("wmax", wmax) < positive("wmin", wmin):
            raise ValueError(f"wmax: got {wmax}, want at least wmin, {wmin}")
        if not 0 <= scale < math.inf:
            raise ValueError(f"scale: got {scale}, want a number from 0")
        if low > high:
            raise ValueError(f"low: got {low}, want at most high, {high}")
        self.dmin, self.dmax, self.wmin, self.wmax = dmin, dmax, wmin, wmax
        self.k, self.nodes, self.window = positive("k", k), positive("nodes", nodes), positive("window", window)
        self.low, self.high = low, high
        self.source, self.threshold, self.scale, self.rounding = source, threshold, scale, rounding
        self.adapt, self.width = adapt, width
        self.start = start
        self.online = tree == "online"
        self.look_ahead = source != "current"

    @property
    def replayable(self):
        return not self.online and self.source != "mean"

    def next(self, signal, history):
        if signal is None:
            return self.start
        depth, width = self.shape(signal, history)
        parents: list[int] = []
        level = [(-1, 1.0, 1.0)]  # (node, its probability, that of its path)
        for at in range(1, self._rounded(depth) + 1):
            below = []
            for node, prob, path in level:
                count = self._children(signal.probs, prob, path, at, depth, width)
                for rank in range(min(count, self.nodes - len(parents))):
                    below.append((len(parents), signal.probs[rank], path * signal.probs[rank]))
                    parents.append(node)
            level = below
        return Tree(tuple(parents))

    def grow(self, drafted, frontier, depth, signal, history):
        signal = signal or drafted.root._replace(alpha=START_ALPHA)
        aim, width = self.shape(signal, history)
        grown: list[int] = []
        for node in frontier:
            if node < 0:
                probs, prob, path = drafted.root.probs, 1.0, 1.0
            else:
                probs = drafted.distributions[node].probs
                prob, path = drafted.probs[node], drafted.path_probs[node]
            count = self._children(probs, prob, path, depth, aim, width)
            grown += drafted.branch(node, min(count, self.nodes - len(drafted)))
        return grown if depth < self._rounded(aim) and len(drafted) < self.nodes else []

    def read(self, drafted: Draft, path: Sequence[int]) -> Distribution:
        if self.source == "mean":
            known = [drafted.root, *(one for one in drafted.distributions if one is not None)]
            return _mean([one for one in known if one.probs] or known)
        if self.source == "deepest":
            known = (drafted.distributions[node] for node in reversed(path))
            return next((one for one in known if one is not None), drafted.root)
        return drafted.root

    def shape(self, signal, history):
        """D(alpha) and W(alpha), equations 10 and 11, not rounded; None for the start tree."""
        if signal is None:
            return None
        alpha, ceiling = signal.alpha, self._ceiling(history)
        depth = self.dmin + alpha * ((ceiling if self.adapt == "range" else self.dmax) - self.dmin)
        unsure = 1 - alpha if self.width == "inverse" else 0.5
        return min(depth, ceiling), self.wmin + unsure * (self.wmax - self.wmin)

    def _ceiling(self, history):
        """The depth that the history of accepted drafts allows."""
        ceiling, total = self.dmax, 0
        if self.adapt == "off":
            return ceiling
        for i, accepted in enumerate(history):
            total += accepted - (history[i - self.window] if i >= self.window else 0)
            rounds = min(i + 1, self.window)
            if total < self.low * rounds:
                ceiling = max(ceiling - 1, self.dmin)
            elif total > self.high * rounds:
                ceiling = min(ceiling + 1, self.dmax)
        return ceiling

    def _children(self, probs, prob, path, at, depth, width):
        """How many of a node's candidates at level `at` equation 12 and the threshold let through."""
        if at > 1:
            width = width / at * (0.5 + prob)
        count = math.floor(width) if self.rounding == "floor" else max(1, math.floor(width))
        least, above = self.scale * at / depth, path if self.threshold == "path" else 1.0
        return next((rank for rank, p in enumerate(probs[:count]) if above * p < least), min(count, len(probs)))

    def _rounded(self, depth):
        return math.floor(depth if self.rounding == "floor" else depth + 0.5)


def _mean(known: Sequence[Distribution]) -> Distribution:
    """Rank by rank; alpha is the mean too, not that of the mean distribution."""
    longest, count = max(len(one.probs) for one in known), len(known)
    probs = [sum(one.probs[rank] for one in known if rank < len(one.probs)) / count for rank in range(longest)]
    alpha, mass = (sum(values) / count for values in zip(*((one.alpha, one.mass) for one in known), strict=True))
    return Distribution((), probs, alpha, mass)
