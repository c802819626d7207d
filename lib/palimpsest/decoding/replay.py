"""What a tree policy would have had accepted, without decoding: read off the target's own text.

Under greedy decoding the text is the target's, whatever the drafter proposes. A node of a tree is accepted where it
carries the text's next token, so that every accepted node's prefix is a prefix of the text. The drafter's
distribution at a node depends on the prompt that it read (the whole, or a part of the picture: that is settled before
the first token) and on the tokens before the node, and on nothing else: not on the tree, the rounds, the history or
siblings. So one forward of the drafter over the text (`follow`) gives its distribution at every node that can ever be
accepted.

A *template* policy makes its tree from the `signal` and the history of accepted lengths. Where the signal is the
distribution at a root or at an accepted node, both are known in their turn, and `replay` gives the rounds of a
decode: exact up to rounding, since a forward over many rows differs in its last bits from one over a few. Not so for
a policy that grows its tree from nodes which may be wrong (`online`: EAGLE-2, OPT-Tree, SAGE's reading "online", the
chain that stops by entropy), for SAGE's reading "mean", whose signal is a mean over rejected nodes too, for drafters
that learn from rejected rows (`TokenRecycling`), and for temperatures above 0: these must be decoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .distributions import Distribution
from .draft import Draft
from .drafters import ModelDrafter
from .policies import Policy
from .tree import Tree

NOTHING = Tree(())


@dataclass(frozen=True, eq=False)
class Followed:
    """A greedy text of the target, and what a drafter holds along it.

    tokens: the n new tokens. distributions: n − 1, [i] after tokens[i], each of the policies' k candidates.
    """

    tokens: Sequence[int]
    distributions: Sequence[Distribution]

    @cached_property
    def ranks(self) -> list[int]:
        """[n − 1]: the rank of tokens[i + 1] in distributions[i], or the number of candidates where it is none."""
        return [
            list(known.tokens).index(token) if token in known.tokens else len(known.tokens)
            for token, known in zip(self.tokens[1:], self.distributions, strict=True)
        ]


@dataclass(frozen=True)
class Replayed:
    """One round: the drafts that became text, the tree that was verified, and the drafter's confidence at its root
    (None in a round without a draft)."""

    accepted: int
    tree: Tree
    alpha: float | None


def follow(drafter: ModelDrafter, inputs, tokens: Sequence[int], k: int, vocabulary: int) -> Followed:
    """The distributions of `drafter` along the target's text, in its prefill and one forward more.

    Args:
        drafter: a `ModelDrafter`, a `PrunedDrafter` among them.
        inputs: the prompt, as `generate` takes it.
        tokens: what the target said to it greedily, at least one.
        k: candidates per node, `policy.k`.
        vocabulary: the target's number of tokens.

    `ValueError` for an empty text, and as `generate` for a prompt that the drafter cannot take.
    """
    if not len(tokens):
        raise ValueError("tokens: got an empty text, want at least one token")
    drafter.suit(vocabulary)
    drafter.prefill(inputs, k)
    return Followed(list(tokens), drafter.follow(tokens[:-1]))


def replay(policy: Policy, followed: Followed, most: int) -> list[Replayed]:
    """The rounds of `generate(..., policy=policy, max_new_tokens=most)` at temperature 0 that gives this text.

    `ValueError` for a policy whose rounds do not follow from the text (see `Policy.replayable`), for distributions
    of another number of candidates than the policy's k, and for a text longer than `most`.
    """
    if not policy.replayable:
        raise ValueError(f"policy: got {type(policy).__name__}, whose trees do not follow from the text; decode it")
    tokens, known, ranks = followed.tokens, followed.distributions, followed.ranks
    if any(len(one.tokens) != policy.k for one in known):
        raise ValueError(f"followed: got {len(known[0].tokens)} candidates a token, want the policy's {policy.k}")
    if len(tokens) > most:
        raise ValueError(f"most: got {most}, want at least the text's {len(tokens)} tokens")
    rounds: list[Replayed] = []
    history: list[int] = []
    signal, at, last = None, 0, len(tokens) - 1  # tokens[at] is the root
    while at < last:
        left = most - (at + 1)
        if not policy.drafts or left <= 1:
            rounds.append(Replayed(0, NOTHING, None))
            history.append(0)
            at += 1
            continue
        root = known[at]
        tree = _cut(policy.next(signal if policy.look_ahead else root, history), left - 1)
        drafted, node, place = Draft(root), -1, at
        while place < last and ranks[place] < len(tree.children(node)):
            node, place = tree.children(node)[ranks[place]], place + 1
            # As in a decode: the drafter was asked where the node has children.
            drafted.distributions.append(known[place] if place < last and tree.children(node) else None)
        signal = policy.read(drafted, range(place - at))
        history.append(place - at)
        rounds.append(Replayed(place - at, tree, root.alpha))
        at = place + 1
    return rounds


def _cut(tree: Tree, depth: int) -> Tree:
    """The first `depth` levels of a tree."""
    if tree.depth <= depth:
        return tree
    kept = [node for node, level in enumerate(tree.depths) if level <= depth]
    place = {-1: -1} | {node: i for i, node in enumerate(kept)}
    return Tree(tuple(place[tree.parents[node]] for node in kept))
