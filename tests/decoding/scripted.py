"""Distributions of known shape, a drafter that repeats them, and what a policy drafts from it."""

from hypothesis import strategies as st
from pairs import distribution

from palimpsest.decoding import Drafter
from palimpsest.decoding.drafting import draft
from palimpsest.decoding.stats import Clock

GEOMETRIC = distribution([0.5**rank for rank in range(1, 11)])
SURE = distribution([1.0] + [1e-12] * 9)
FLAT = distribution([0.1] * 10)

probabilities = st.lists(st.floats(1e-9, 1), min_size=10, max_size=10).map(distribution)


class Scripted(Drafter):
    """The same distribution after every node, or the one that `by_token` names."""

    def __init__(self, always, by_token=None):
        self.always, self.by_token = always, by_token or {}
        self.calls = []

    def expand(self, drafted, nodes):
        self.calls.append(list(nodes))
        for node in nodes:
            drafted.distributions[node] = self.by_token.get(drafted.tokens[node], self.always)


def drafted_by(policy, drafter, root, signal=None, history=(), most=20):
    return draft(
        drafter, policy, root, signal or root, list(history), most, Clock(dict.fromkeys(("tree", "draft"), 0))
    )
