"""Drafters without a model: they cost no forward, and any policy can shape their trees."""

import copy
from collections import Counter, defaultdict

from .distributions import UNKNOWN, Distribution, ranked, weighted
from .drafters import Drafter
from .models import token_ids


class TokenRecycling(Drafter):
    """What the target itself held likely after a token, when it last read that token.

    Stated by Token Recycling (Luo et al., arXiv 2408.08696): an adjacency matrix of tokens, filled with the k
    likeliest successors from every verified row, rejected ones among them; it lives on from request to request; the
    tree is static (`TOKEN_RECYCLING`), where here any policy will do, and k is 8, where here it is the policy's.
    Our reading: the probabilities are kept too, so that policies which read them can be used; a dictionary holds
    the rows that were seen.
    """

    def __init__(self):
        self._after: dict[int, Distribution] = {}

    def prefill(self, inputs, k):
        self._k = k

    def fork(self):
        return copy.copy(self)  # one memory for all

    def start(self, committed):
        return self._after.get(committed[-1], UNKNOWN)

    def expand(self, drafted, nodes):
        for node in nodes:
            drafted.distributions[node] = self._after.get(drafted.tokens[node], UNKNOWN)

    def observe(self, tokens, logits):
        self._after.update(zip(tokens, ranked(logits, self._k), strict=True))


class PromptLookup(Drafter):
    """What followed the same last tokens earlier in the prompt or in the answer.

    After prompt lookup decoding (Saxena 2023; transformers' `prompt_lookup_num_tokens`), which copies one
    continuation. Ours: the longest of the last `ngram` … 1 tokens that occurred before decides, and its
    successors are candidates in the order of their counts, the latest first where these are equal.

    ngram: most tokens that are looked up, from 1.
    """

    def __init__(self, ngram: int = 3):
        if ngram < 1:
            raise ValueError(f"ngram: got {ngram}, want 1 or more")
        self._ngram = ngram

    def prefill(self, inputs, k):
        self._k = k
        self._text: list[int] = []
        self._after: defaultdict[tuple[int, ...], Counter] = defaultdict(Counter)
        self._append(token_ids(inputs))

    def fork(self):
        return PromptLookup(self._ngram)

    def start(self, committed):
        self._append(committed)
        return self._lookup(self._text[-self._ngram :])

    def expand(self, drafted, nodes):
        for node in nodes:
            path, ancestor = [], node
            while ancestor >= 0:
                path.append(drafted.tokens[ancestor])
                ancestor = drafted.parents[ancestor]
            drafted.distributions[node] = self._lookup((self._text[-self._ngram :] + path[::-1])[-self._ngram :])

    def _append(self, tokens):
        for token in tokens:
            for size in range(1, min(self._ngram, len(self._text)) + 1):
                counts = self._after[tuple(self._text[-size:])]
                # Taken out and put back behind the others, so that the order of the keys is that of their use.
                counts[token] = counts.pop(token, 0) + 1
            self._text.append(token)

    def _lookup(self, last):
        for size in range(len(last), 0, -1):
            counts = self._after.get(tuple(last[-size:]))
            if counts:
                latest_first = sorted(reversed(counts.items()), key=lambda entry: -entry[1])[: self._k]
                return weighted(*zip(*latest_first, strict=True), self._k)
        return UNKNOWN
