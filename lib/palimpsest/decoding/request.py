"""One request between its forwards: what it asks the target to verify, and what it makes of the answer."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from torch import Tensor

from .distributions import Distribution
from .draft import Draft
from .drafters import Drafter
from .drafting import draft
from .models import Decoder, token_ids
from .policies import Policy
from .stats import Clock, Round, Stats
from .tree import Tree
from .verify import Chooser, verify

NOTHING = Tree(())


class Request:
    """`start` once; then `propose`, `judge` and `settle` in each round until `ended`.

    The target is the caller's: it extends by what `propose` gives and commits what `judge` returns.
    """

    def __init__(
        self,
        drafter: Drafter | None,
        policy: Policy,
        chooser: Chooser,
        clock: Clock,
        stats: Stats,
        *,
        most: int,
        stop_tokens: Collection[int],
        callback: Callable[[Sequence[int]], None] | None,
    ):
        self.drafter, self.policy, self.chooser, self.clock, self.stats = drafter, policy, chooser, clock, stats
        self.most, self.stop_tokens, self.callback = most, stop_tokens, callback
        self.tokens: list[int] = []
        self.ended = False
        self._signal: Distribution | None = None

    def start(self, target: Decoder, inputs) -> None:
        """Prefill target and drafter; the first token."""
        prompt = token_ids(inputs)
        self._prompt_length = len(prompt)
        logits = target.prefill(inputs)[None]
        _require_room("target", target.room(), self.most)
        first = self.chooser(logits, self._prompt_length)(0, 0)
        self.stats.target_forwards = 1
        self.clock.lap("prefill_target")
        if self.drafter is not None:
            self.drafter.suit(target.vocabulary)
            self.drafter.prefill(inputs, self.policy.k)
            _require_room("drafter", self.drafter.room(), self.most)
            self.drafter.observe(prompt[-1:], logits)
            self.clock.lap("prefill_draft")
        self._take([first])

    def propose(self) -> tuple[list[int], list[int], np.ndarray]:
        """Tokens, depths and ancestors of the rows to verify, the root's first."""
        left = self.most - len(self.tokens)
        self._drafts = self.drafter is not None and left > 1
        self._drafted, self._tree, self._shaping = Draft(None), NOTHING, None
        if self._drafts:
            root = self.drafter.start(self._committed)
            self.clock.lap("draft")
            self._shaping = self._signal if self.policy.look_ahead else root
            self._drafted, self._tree = draft(
                self.drafter, self.policy, root, self._shaping, self.stats.accepted, left - 1, self.clock
            )
        self._rows = [self.tokens[-1], *self._drafted.tokens]
        depths, ancestors = self._tree.verification
        self.clock.lap("tree")
        return self._rows, depths, ancestors

    def judge(self, logits: Tensor) -> list[int]:
        """The target's logits [1 + T, V] of these rows -> the rows to commit."""
        choose = self.chooser(logits, self._prompt_length + len(self.tokens))
        self._path, self._bonus = verify(self._tree, self._drafted.tokens, choose)
        self.stats.target_forwards += 1
        self.clock.lap("verify")
        return [0, *(node + 1 for node in self._path)]

    def settle(self, logits: Tensor) -> None:
        """The drafter's share of the commit, the record, and the round's tokens."""
        drafted, path = self._drafted, self._path
        if self._drafts:
            self.drafter.commit(path)
        self.clock.lap("commit")
        if self._drafts:
            self.drafter.observe(self._rows, logits)
            self.clock.lap("draft")
        self._record()
        if self._drafts:
            self._signal = self.policy.read(drafted, path)
        new = [*(drafted.tokens[node] for node in path), self._bonus]
        self.stats.accepted.append(len(self._take(new)[: len(path)]))
        self.clock.lap("other")

    def _take(self, new):
        """What of `new` becomes text: up to the first stop token and the length asked for."""
        left = self.most - len(self.tokens)
        end = next((i + 1 for i, token in enumerate(new) if token in self.stop_tokens), left)
        text = new[: min(end, left)]
        self.ended = len(text) == left or text[-1] in self.stop_tokens
        self.tokens += text
        self._committed = text
        if self.drafter is not None:
            self.stats.draft_forwards = self.drafter.forwards
        if self.callback is not None:
            self.callback(list(text))
        return text

    def _record(self):
        stats, drafted, root, shaping = self.stats, self._drafted, self._drafted.root, self._shaping
        alpha = None if root is None else root.alpha
        stats.tree_sizes.append(len(self._tree))
        stats.alphas.append(alpha)
        if stats.trace is None:
            return
        stats.trace.append(
            Round(
                tree=self._tree,
                tokens=tuple(drafted.tokens),
                path=tuple(self._path),
                bonus=self._bonus,
                root=self.tokens[-1],
                root_alpha=alpha,
                alphas=tuple(None if one is None else one.alpha for one in drafted.distributions),
                probs=tuple(drafted.probs),
                signal_alpha=None if shaping is None else shaping.alpha,
                shape=None if root is None else self.policy.shape(shaping, stats.accepted),
            )
        )


def _require_room(name, room, most):
    if room is not None and room < most:
        left = f"want at most {room}, what the prompt leaves of the {name}'s context"
        raise ValueError(f"max_new_tokens: got {most}, {left}")
