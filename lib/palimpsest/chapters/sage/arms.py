"""The arms of the SAGE experiment: who shapes the tree, who drafts, which pair, at which temperature.

Every policy is tuned over four settings and may use `NODES` nodes and `DEPTH` levels, the paper's allowance for SAGE.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from palimpsest import decoding
from palimpsest.decoding import Decoder, Drafter, Policy, Tree
from palimpsest.decoding.policies.static import Static, fitted_tree

NODES, DEPTH = 64, 8
"""Nmax and Dmax of SAGE (section 5.1), granted to every policy."""
RATIOS = (0.5, 0.8, 0.9, 0.95)
"""Shares of the picture's tokens that the drafter does without."""
PRUNING = ("attention", "uniform", "random")
"""How the tokens that stay are chosen: kinds of drafter, see `decoding.PrunedDrafter`."""
WITHOUT_MODEL: dict[str, Callable[[], Drafter]] = {
    "recycling": decoding.TokenRecycling,
    "lookup": decoding.PromptLookup,
}
POLICIES: dict[str, Callable[..., Policy]] = {
    "autoregressive": decoding.policies["autoregressive"],
    "chain": decoding.policies["chain"],
    "entropy_chain": decoding.policies["entropy_chain"],
    "specvlm": Static,
    "static": lambda parents: Static(Tree(tuple(parents))),
    "eagle2": decoding.policies["eagle2"],
    "opt_tree": decoding.policies["opt_tree"],
    "sage": decoding.policies["sage"],
}
"""By name, what makes a policy of its options. "specvlm" is the static tree that the paper compares SAGE with."""


@dataclass(frozen=True)
class Arm:
    """`policy` (a key of POLICIES) and its options; `drafter`: "model", a kind of PRUNING (the model does without
    `ratio` of the picture's tokens), or one of WITHOUT_MODEL; `pair` of the family; and the temperature."""

    policy: str
    options: dict = field(default_factory=dict)
    drafter: str = "model"
    ratio: float = 0.0
    pair: str = "vision"
    temperature: float = 0.0

    def make_policy(self) -> Policy:
        return POLICIES[self.policy](**self.options)

    def make_drafter(self, model: Decoder) -> Drafter:
        """Who drafts; `model` is the pair's drafter."""
        if self.drafter in WITHOUT_MODEL:
            return WITHOUT_MODEL[self.drafter]()
        if self.drafter in PRUNING:
            return decoding.PrunedDrafter(model, self.ratio, by=self.drafter)
        return decoding.ModelDrafter(model)


PLAIN = Arm("autoregressive")


def candidates(acceptance: list[float]) -> dict[str, list[dict]]:
    """What tuning compares: four settings per policy, all within the budget."""
    whole = {"nodes": NODES, "depth": DEPTH}
    return {
        "chain": [{"length": n} for n in (2, 4, 6, DEPTH)],
        "entropy_chain": [{"length": DEPTH, "threshold": t} for t in (0.3, 0.4, 0.5, 0.6)],
        "static": [{"parents": fitted_tree(acceptance, NODES, d).parents} for d in (4, 5, 6, DEPTH)],
        "eagle2": [whole | {"top_k": k} for k in (4, 6, 8, 10)],
        "opt_tree": [whole | {"threshold": t} for t in (0.0, 0.05, 0.1, 0.2)],
        "sage": [{"tree": t, "threshold": h} for t in ("template", "online") for h in ("path", "token")],
    }


AS_STATED = "sage 0"
"""Of `trials`, SAGE as the paper states it: the first of its candidates are its defaults."""


def trials(acceptance: list[float]) -> dict[str, Arm]:
    """The arms of tuning by name: each of `candidates` as a policy's "0" to "3"."""
    return {
        f"{policy} {i}": Arm(policy, options)
        for policy, settings in candidates(acceptance).items()
        for i, options in enumerate(settings)
    }


SWITCHES = {
    "no look-ahead": {"source": "current"},
    "no history": {"adapt": "off"},
    "constant width": {"width": "constant"},
}
"""SAGE's three ideas, switched off one at a time."""
READINGS = {
    "tree of each node's own": {"tree": "online"},
    "threshold on the token": {"threshold": "token"},
    "source: deepest accepted": {"source": "deepest"},
    "source: mean over nodes": {"source": "mean"},
    "plain floors": {"rounding": "floor"},
    "history caps D": {"adapt": "cap"},
}
"""The other readings of what the paper leaves open, one at a time."""


def arms(
    longest: dict[str, dict],
    cheapest: dict[str, dict],
    acceptance: dict[str, list[float]],
    size: int,
    sampling: tuple[float, ...],
) -> dict[str, Arm]:
    """All arms that the claims are judged by, by name. longest, cheapest: options by policy; acceptance: shares by
    rank and pair, "vision" the first; size: nodes of SAGE's mean tree; sampling: temperatures of the arms that are
    not greedy. Other drafters take over the options, and get static trees of their own."""
    small = {"nodes": size, "depth": DEPTH}
    found = {policy: Arm(policy, longest[policy]) for policy in longest if policy != "sage"}
    found |= {"sage": Arm("sage"), "sage, tuned": Arm("sage", longest["sage"])}
    found |= {f"{policy}, cheapest": Arm(policy, options) for policy, options in cheapest.items()}
    found["specvlm"] = Arm("specvlm")
    found["static, small"] = Arm("static", {"parents": fitted_tree(acceptance["vision"], size, DEPTH).parents})
    found["eagle2, small"] = Arm("eagle2", small | {"top_k": min(longest["eagle2"]["top_k"], size)})
    found["opt_tree, small"] = Arm("opt_tree", small | {"threshold": longest["opt_tree"]["threshold"]})
    found |= {name: Arm("sage", options) for name, options in (SWITCHES | READINGS).items()}
    for kind in PRUNING:
        for ratio in RATIOS if kind == "attention" else RATIOS[1:3]:
            found[f"{kind} {ratio}"] = Arm("sage", drafter=kind, ratio=ratio)
    found |= {kind: Arm("sage", drafter=kind) for kind in ("recycling", "lookup")}
    for pair in [pair for pair in acceptance if pair != "vision"]:
        fitted = {"parents": fitted_tree(acceptance[pair], NODES, DEPTH).parents}
        others = {"chain": longest["chain"], "static": fitted, "eagle2": longest["eagle2"], "sage": {}, "specvlm": {}}
        found |= {f"{policy}, {pair}": Arm(policy, options, pair=pair) for policy, options in others.items()}
    warm = {"autoregressive": {}, "static": longest["static"], "eagle2": longest["eagle2"], "sage": {}}
    return found | {
        f"{policy}, T = {temperature:g}": Arm(policy, options, temperature=temperature)
        for temperature in sampling
        for policy, options in warm.items()
    }
