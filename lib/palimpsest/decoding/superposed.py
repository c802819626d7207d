"""Superposed drafts: one row a level, whose embedding is the weighted mean of all that level's tokens."""

import numpy as np
import torch
from torch import Tensor

from .distributions import Distribution, ranked
from .drafters import ModelDrafter


class SuperposedDrafter(ModelDrafter):
    """A causal model that reads all nodes of a level as one row.

    Stated by Superposed Decoding (Shen et al., arXiv 2405.18400): a superposition of the drafts' last embeddings
    stands for all of them in one pass; n-grams tell the drafts apart again. From the released code: the weights are
    the drafts' probabilities, and the two distributions are mixed geometrically, p^(1 − a) · n^a over the model's
    likeliest tokens.
    Our reading: there the drafts are the output; here they are a tree for the target to verify, so that nothing is
    lost. n is what the target held likely after the same last token, where it has read it (`TokenRecycling`'s
    matrix in the place of a corpus), and the model's own distribution elsewhere. The superposed rows are dropped when
    the round is over, and accepted tokens are read as themselves.

    model: as for `ModelDrafter`; its input embeddings must be a module. mix: a, from 0 (the model alone) to 1.
    """

    def __init__(self, model, mix: float = 0.5):
        if not 0 <= mix <= 1:
            raise ValueError(f"mix: got {mix}, want a number from 0 to 1")
        super().__init__(model)
        self._mix, self._after = mix, {}

    def start(self, committed):
        found = super().start(committed)
        self._levels = 0
        return self._told_apart(found, committed[-1])

    def expand(self, drafted, nodes):
        decoder, pending = self.decoder, self.decoder.pending
        ancestors = np.zeros((1, pending + 1), dtype=bool)
        ancestors[:, : self._fresh] = True
        ancestors[:, pending - self._levels :] = True
        self._levels += 1
        tokens = [drafted.tokens[node] for node in nodes]
        weights = torch.tensor([drafted.path_probs[node] for node in nodes])
        table = decoder.model.get_input_embeddings()
        mean = self._mean(table, tokens, weights)
        hook = table.register_forward_hook(lambda module, given, out: mean.expand_as(out))
        try:
            logits = decoder.extend(tokens[:1], [self._fresh - 1 + drafted.depths[nodes[0]]], ancestors)
        finally:
            hook.remove()
        (found,) = self._ranked(logits)
        for node in nodes:
            drafted.distributions[node] = self._told_apart(found, drafted.tokens[node])

    def observe(self, tokens, logits):
        self._after.update(zip(tokens, ranked(logits, self._k), strict=True))

    def renumber(self, kept):
        """Rows belong to levels here, not to nodes."""

    def commit(self, path):
        self.decoder.commit(range(self._fresh))
        self._rowed = 0

    def _mean(self, table, tokens, weights) -> Tensor:
        """[D] the mean of these tokens' embeddings by their weights."""
        vectors = table(torch.tensor(tokens, device=self.decoder.model.device))
        shares = (weights / weights.sum()).to(vectors)
        return shares @ vectors

    def _told_apart(self, found: Distribution, token: int) -> Distribution:
        """`found` mixed with what the target held likely after `token`, over the tokens of `found`."""
        known = self._after.get(token)
        if known is None or not self._mix:
            return found
        held = dict(zip(known.tokens, (known.mass * p for p in known.probs), strict=True))
        least = min(held.values()) / 2  # of a token that the matrix has not: below all that it has
        mixed = [
            p ** (1 - self._mix) * held.get(one, least) ** self._mix
            for one, p in zip(found.tokens, found.probs, strict=True)
        ]
        logits = torch.tensor([mixed], dtype=torch.float64).log()
        (order,) = ranked(logits, len(mixed))
        return order._replace(tokens=[found.tokens[i] for i in order.tokens], mass=found.mass)
