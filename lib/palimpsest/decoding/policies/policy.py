"""What a policy is: the rule that shapes each round's tree."""

from collections.abc import Sequence
from numbers import Integral

from ..distributions import Distribution
from ..draft import Draft
from ..tree import MOST, Tree


class Policy:
    """A pure rule: equal arguments give equal trees, so that one object serves any number of requests.

    A template policy (`online` False) gives the whole tree before drafting, by `next`; node after node then takes
    its rank's token. An online policy sees each level's distributions before it decides on the level below, by
    `grow`, and may leave a part of the draft out of the verification, by `select`.

    `signal` and `history` of these methods: the distribution that `read` gave after the round before (None in the
    first round), or, unless `look_ahead`, the one at this round's root; and the number of accepted drafts of each
    round so far.
    """

    k: int = 10
    """Candidates per node, and the k of alpha (SAGE, section 5.1: 10)."""
    drafts: bool = True
    """Whether a drafter is needed."""
    online: bool = False
    look_ahead: bool = False

    @property
    def replayable(self) -> bool:
        """Whether greedy rounds follow from the target's text alone, see `decoding.replay`: a template, and a signal
        that `read` takes from the root or from accepted nodes."""
        return not self.online

    def next(self, signal: Distribution | None, history: Sequence[int]) -> Tree:
        """The tree of the round, from a template policy."""
        raise NotImplementedError

    def grow(
        self,
        drafted: Draft,
        frontier: Sequence[int],
        depth: int,
        signal: Distribution | None,
        history: Sequence[int],
    ) -> list[int]:
        """Branch nodes of `frontier`, whose distributions are known, into `depth`; those to expand next, if any."""
        raise NotImplementedError

    def select(self, drafted: Draft) -> Sequence[int]:
        """The drafted nodes to verify, ascending, each with its parent and its earlier siblings."""
        return range(len(drafted))

    def read(self, drafted: Draft, path: Sequence[int]) -> Distribution:
        """After the round: the `signal` of the next, if `look_ahead`. `path`: the accepted nodes."""
        return drafted.root

    def shape(self, signal: Distribution | None, history: Sequence[int]) -> tuple[float, float] | None:
        """The depth and the width aimed at, for the record; None where the policy has no such numbers."""
        return None


def positive(name: str, value: int) -> int:
    """`value`; `ValueError` where it is no integer from 1 (a budget of 0 drafts nothing) to MOST, a tree's limit."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= value <= MOST:
        raise ValueError(f"{name}: got {value!r}, want an integer from 1 to {MOST}")
    return value
