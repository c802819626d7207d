"""Which drafted tokens the target accepts, and the token that it adds. Exact, greedy and sampling."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .tree import Tree


def verify(tree: Tree, tokens: Sequence[int], choose: Callable[[int, int], int]) -> tuple[list[int], int]:
    """Walk down from the root as long as the target's own token is a child.

    Stated by SAGE (arXiv 2602.00523, algorithm 1) for greedy decoding: the longest path of tokens that equal the
    target's argmax, and one bonus token. With a sampled token in the argmax's place this is exact at any
    temperature: the children of a node are fixed before its token is drawn, so a draw that meets one of them is a
    draw from the target's distribution like any other. (Accepting a child with probability p/q is not: that rule
    is for a child which was itself drawn from q.)

    Args:
        tree: its nodes' siblings carry different tokens.
        tokens: one per node.
        choose: (row, depth) -> the target's token after that row of the verified ones, the root's being row 0.

    Returns:
        the accepted nodes from depth 1 down, and the token after the last of them.
    """
    path, node = [], -1
    while True:
        token = choose(node + 1, len(path))
        node = next((child for child in tree.children(node) if tokens[child] == token), -1)
        if node < 0:
            return path, token
        path.append(node)


def gumbel(seed: int, position: int, size: int) -> Tensor:
    """Gumbel noise [size] float64, a function of seed and position alone.

    Philox is keyed by the two numbers themselves: no state is carried along, so that plain decoding and any tree
    meet the same noise at a position, and no two positions share it. (torch's generator would have to be seeded
    with a hash of both.)
    """
    keyed = np.random.Generator(np.random.Philox(key=np.array([seed, position], dtype=np.uint64)))
    return torch.from_numpy(-np.log(keyed.standard_exponential(size)))


class Chooser:
    """The target's token after a row of logits: the argmax, or a draw at `temperature` > 0.

    A draw is argmax(logits / temperature + Gumbel noise), which has the softmax's distribution; the noise belongs to
    the absolute position of the token drawn, prompt included.

    Raises `ValueError` for a row that is asked for and whose largest logit is not finite: the argmax of NaN would be
    a token like any other.
    """

    def __init__(self, temperature: float, seed: int):
        self.temperature = temperature
        self.seed = seed

    def __call__(self, logits: Tensor, position: int) -> Callable[[int, int], int]:
        """Logits [T, V] of verified rows, the first one's successor at `position` -> `choose` of `verify`."""
        if self.temperature == 0:
            likeliest = logits.argmax(-1, keepdim=True)  # NaN is larger than any number
            tops, tokens = logits.gather(-1, likeliest)[:, 0].tolist(), likeliest[:, 0].tolist()

            def choose(row, depth):
                _require_finite(tops[row], position + depth)
                return tokens[row]

            return choose

        def draw(row, depth):
            noise = gumbel(self.seed, position + depth, logits.shape[-1]).to(logits.device)
            likely = logits[row].double()
            top = likely.max()
            _require_finite(top.item(), position + depth)
            # Less the largest: at a temperature near 0 the others go to minus infinity, and not several to plus.
            return int(((likely - top) / self.temperature + noise).argmax())

        return draw


def _require_finite(top: float, position: int) -> None:
    if not math.isfinite(top):
        got = f"target: got {top} as the largest logit of the token at position {position}"
        raise ValueError(f"{got}, want a finite one: its weights or its arithmetic are broken")
