"""ADED's drafter: what the target itself held likely after the last two tokens."""

import copy

from .distributions import UNKNOWN, Distribution, ranked
from .draft import Draft
from .drafters import Drafter
from .models import token_ids


class TrigramMatrix(Drafter):
    """A matrix of token pairs, each with the target's k likeliest successors when it last read that pair.

    Stated by ADED (Liu et al., arXiv 2407.12021, abstract): a tri-gram matrix approximates the target's output
    distribution, is updated while it decodes, and needs no training. Their tree is policy "aded"; any other will do.
    Our reading: the matrix begins empty and lives on from request to request; every verified row counts, rejected
    ones among them; a pair that was not seen is answered by its last token alone, as `TokenRecycling` does.
    """

    def __init__(self):
        self._after: dict[tuple[int, ...], Distribution] = {}

    def prefill(self, inputs, k):
        self._k = k
        self._last = token_ids(inputs)[-2:]
        self._drafted, self._kept = Draft(UNKNOWN), None

    def fork(self):
        return copy.copy(self)  # one matrix for all

    def start(self, committed):
        self._last = [*self._last, *committed][-2:]
        self._drafted, self._kept = Draft(UNKNOWN), None
        return self._known(*self._last)

    def expand(self, drafted, nodes):
        self._drafted = drafted
        for node in nodes:
            drafted.distributions[node] = self._known(self._before(node), drafted.tokens[node])

    def renumber(self, kept):
        self._kept = kept

    def observe(self, tokens, logits):
        """The rows are the root and the nodes of the tree that was verified."""
        nodes = range(len(tokens) - 1) if self._kept is None else self._kept
        before = [self._last[0], *map(self._before, nodes)]
        for first, token, known in zip(before, tokens, ranked(logits, self._k), strict=True):
            self._after[first, token] = self._after[token,] = known

    def _before(self, node: int) -> int:
        """The token before a node's own; of a draft of one level, which is never expanded, that is the root."""
        parent = self._drafted.parents[node] if len(self._drafted) else -1
        return self._drafted.tokens[parent] if parent >= 0 else self._last[-1]

    def _known(self, first: int, token: int) -> Distribution:
        return self._after.get((first, token)) or self._after.get((token,), UNKNOWN)
