"""What proposes tokens: a smaller model with a cache of its own. (Without a model: see training_free.py.)"""

import copy
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .distributions import Distribution, ranked
from .draft import Draft
from .models import Decoder, adapt

PADDING = 128
"""Most tokens that the vocabularies of target and drafter may differ by: models of one tokenizer pad theirs to other
multiples (Qwen2.5: 151,936 and 152,064). llama.cpp allows as many."""


class Drafter:
    """One request's source of drafts. `generate` calls, in this order:

    `suit` and `prefill` once; then each round `start`, `expand` for each further level, `renumber` if the policy
    keeps a part of the draft only, `observe` and `commit`.
    """

    vocabulary: int | None = None
    """Number of tokens, which must be the target's but for PADDING; None where any will do."""
    forwards: int = 0
    """Calls of a model for this request, the prefill among them."""

    def suit(self, vocabulary: int) -> None:
        """Once, before the prefill: the target's number of tokens. None from there on may be drafted."""

    def prefill(self, inputs, k: int) -> None:
        """Begin a request; `k` candidates per node will be asked for."""
        raise NotImplementedError

    def fork(self) -> "Drafter":
        """A drafter of the same kind for another request at the same time."""
        raise NotImplementedError

    def room(self) -> int | None:
        """After the prefill: how many tokens the request may still have; None without a limit."""
        return None

    def start(self, committed: Sequence[int]) -> Distribution:
        """Tokens committed since the last `start`, the new root last -> the distribution after the root."""
        raise NotImplementedError

    def expand(self, drafted: Draft, nodes: Sequence[int]) -> None:
        """Set `drafted.distributions` of these nodes, all of one level, in at most one forward."""
        raise NotImplementedError

    def renumber(self, kept: Sequence[int]) -> None:
        """Node kept[i] is from now on called i, and those not in `kept` are no more."""

    def observe(self, tokens: Sequence[int], logits: Tensor) -> None:
        """The target's logits [T, V] after each of T tokens that it has just read, accepted or not."""

    def commit(self, path: Sequence[int]) -> None:
        """The nodes that the target accepted, from the root's child down."""


class ModelDrafter(Drafter):
    """A causal model of the target's vocabulary.

    Where either is padded further, the tokens that one of them lacks are impossible to it: the drafter's own beyond
    the target's are not drafted, and the target's beyond the drafter's are read as the drafter's last, which can
    cost acceptance and never changes the text.

    One forward per level, of the nodes that will have children (stated by SAGE, algorithm 1: the drafter fills the
    tree; our reading of what it costs: leaves need no forward, and the first forward of a round takes the root
    together with committed tokens that have no row yet).

    model: a transformers model or a Decoder.
    """

    def __init__(self, model):
        self.decoder: Decoder = adapt(model)
        self.vocabulary = self._common = self.decoder.vocabulary

    @property
    def forwards(self) -> int:
        return self.decoder.forwards

    def suit(self, vocabulary):
        self._common = min(vocabulary, self.vocabulary)

    def prefill(self, inputs, k):
        self._k = k
        self._rowed = 0  # of the tokens that the next `start` brings, the first so many have rows
        self._read(inputs)

    def _read(self, inputs):
        self.decoder.prefill(inputs)

    def fork(self):
        twin = copy.copy(self)
        twin.decoder = copy.copy(self.decoder)  # a prefill gives the copy a cache of its own
        return twin

    def room(self):
        return self.decoder.room()

    def start(self, committed):
        fresh = [min(token, self.vocabulary - 1) for token in committed[self._rowed :]]
        count = len(fresh)
        logits = self.decoder.extend(fresh, range(count), np.tri(count, dtype=bool))
        self._fresh = count
        self._lines: dict[int, list[int]] = {-1: []}  # node -> rows of the nodes on its path, itself last
        return self._ranked(logits[-1:])[0]

    def follow(self, tokens: Sequence[int]) -> list[Distribution]:
        """After each of these tokens behind the committed ones, in one forward: what `start` would give if it were
        the root. Nothing is committed."""
        if not len(tokens):
            return []
        known = [min(token, self.vocabulary - 1) for token in tokens]
        logits = self.decoder.extend(known, range(len(known)), np.tri(len(known), dtype=bool))
        self.decoder.commit([])
        return self._ranked(logits)

    def expand(self, drafted, nodes):
        pending = self.decoder.pending
        ancestors = np.zeros((len(nodes), pending + len(nodes)), dtype=bool)
        ancestors[:, : self._fresh] = True
        for i, node in enumerate(nodes):
            line = [*self._lines[drafted.parents[node]], pending + i]
            self._lines[node] = line
            ancestors[i, line] = True
        depth = self._fresh - 1 + drafted.depths[nodes[0]]
        logits = self.decoder.extend([drafted.tokens[node] for node in nodes], [depth] * len(nodes), ancestors)
        for node, distribution in zip(nodes, self._ranked(logits), strict=True):
            drafted.distributions[node] = distribution

    def _ranked(self, logits):
        try:
            return ranked(logits[:, : self._common], self._k)
        except ValueError as error:  # NaN among them: say whose
            raise ValueError(f"drafter: {error}") from error

    def renumber(self, kept):
        self._lines = {-1: []} | {i: self._lines[node] for i, node in enumerate(kept) if node in self._lines}

    def commit(self, path):
        line = self._lines[next((node for node in reversed(path) if node in self._lines), -1)]
        self.decoder.commit([*range(self._fresh), *line])
        self._rowed = len(line)
