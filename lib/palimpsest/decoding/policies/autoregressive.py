"""Plain decoding: one token per round."""

from ..tree import Tree
from .policy import Policy


class Autoregressive(Policy):
    """The empty tree: the measure of every other policy, through the same code."""

    drafts = False

    def next(self, signal, history):
        return Tree(())
