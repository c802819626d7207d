"""What a decode cost and what it accepted."""

import time
from dataclasses import dataclass, field

from .tree import Tree

STAGES = ("prefill_target", "prefill_draft", "draft", "tree", "verify", "commit", "other")


@dataclass(frozen=True)
class Round:
    """One round in full, for figures and claims. Node lists have one entry per node of `tree`."""

    tree: Tree
    tokens: tuple[int, ...]
    path: tuple[int, ...]
    """The accepted nodes, whether or not the text ended among them."""
    bonus: int
    """The target's token after the path."""
    root: int
    """The token that the tree hangs from."""
    root_alpha: float | None
    """The drafter's confidence in what follows the root; None in a round without a draft."""
    alphas: tuple[float | None, ...]
    """Its confidence in what follows a node; None where the drafter was not asked (leaves)."""
    probs: tuple[float, ...]
    """Renormalised draft probability of a node, given its parent."""
    signal_alpha: float | None
    """The alpha that shaped the tree; None in SAGE's first round and without a draft."""
    shape: tuple[float, float] | None
    """D(alpha) and W(alpha), where the policy has them."""


@dataclass
class Stats:
    """Counts and seconds of one request. Prefills count as forwards, on both sides and for plain decoding alike."""

    accepted: list[int] = field(default_factory=list)
    """Of each round the drafted tokens that became text; the bonus token is not among them."""
    tree_sizes: list[int] = field(default_factory=list)
    """Of each round the drafted nodes that were verified."""
    alphas: list[float | None] = field(default_factory=list)
    """Of each round the drafter's confidence at the root; None where it did not draft."""
    target_forwards: int = 0
    draft_forwards: int = 0
    times: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Seconds by stage. "tree" is the policy's and the masks' share, "draft" the drafter's with it excluded."""
    trace: list[Round] | None = None

    @property
    def rounds(self) -> int:
        """Target forwards after the prefill."""
        return len(self.accepted)

    @property
    def mean_accepted(self) -> float:
        """Accepted drafts per round, the paper's tau; NaN without a round."""
        return sum(self.accepted) / len(self.accepted) if self.accepted else float("nan")


@dataclass(frozen=True)
class Output:
    """A decoded request."""

    tokens: list[int]
    """The new tokens; a stop token that ended the text is the last."""
    stats: Stats


class Clock:
    """Every second goes to one stage: the one named when it ends.

    On CUDA the stages end where their numbers reach Python, so that each waits for its own work.
    """

    def __init__(self, times: dict[str, float]):
        self._times = times
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._times[stage] += now - self._last
        self._last = now
