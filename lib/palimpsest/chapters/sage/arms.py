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
PRUNING: dict[str, dict] = {
    "target's attention": {"by": "attention"},
    "attention": {"by": "attention"},
    "uniform": {"by": "uniform"},
    "random": {"by": "random"},
}
"""Rules by which the drafter's visual tokens stay, see `decoding.PrunedDrafter`. SpecVLM, whose pruning SAGE builds
on, asks the target; "attention" asks the drafter itself; "random" is the control."""
PRUNED = (
    *((rule, ratio) for rule in ("target's attention", "attention") for ratio in (0.8, 0.9)),
    ("uniform", 0.9),
    ("random", 0.9),
)
"""(rule, share of the picture's tokens that the drafter does without)."""
WITHOUT_MODEL: dict[str, Callable[[], Drafter]] = {
    "recycling": decoding.TokenRecycling,
    "lookup": decoding.PromptLookup,
}
POLICIES: dict[str, Callable[..., Policy]] = {
    "autoregressive": decoding.policies["autoregressive"],
    "chain": decoding.policies["chain"],
    "specvlm": Static,
    "static": lambda parents: Static(Tree(tuple(parents))),
    "eagle2": decoding.policies["eagle2"],
    "opt_tree": decoding.policies["opt_tree"],
    "sage": decoding.policies["sage"],
}
"""By name, what makes a policy of its options. "specvlm" is the static tree that the paper compares SAGE with."""


@dataclass(frozen=True)
class Arm:
    """`policy` (a key of POLICIES) and its options; `drafter`: "model", a rule of PRUNING (the model does without
    `ratio` of the picture's tokens), or one of WITHOUT_MODEL; `pair` of the family; and the temperature."""

    policy: str
    options: dict = field(default_factory=dict)
    drafter: str = "model"
    ratio: float = 0.0
    pair: str = "vision"
    temperature: float = 0.0

    def make_policy(self) -> Policy:
        return POLICIES[self.policy](**self.options)

    def make_drafter(self, target: Decoder, model: Decoder) -> Drafter:
        """Who drafts; `model` is the pair's drafter."""
        if self.drafter in WITHOUT_MODEL:
            return WITHOUT_MODEL[self.drafter]()
        if self.drafter in PRUNING:
            scorer = target if self.drafter == "target's attention" else None
            return decoding.PrunedDrafter(model, self.ratio, scorer=scorer, **PRUNING[self.drafter])
        return decoding.ModelDrafter(model)

    @property
    def prefills(self) -> int:
        """The drafter's forwards before the first round: its prefill, and two where attention is asked."""
        if self.drafter in WITHOUT_MODEL:
            return 0
        return 3 if PRUNING.get(self.drafter, {}).get("by") == "attention" else 1

    @property
    def replayed(self) -> bool:
        """Whether its rounds follow from the target's text, see `decoding.replay`."""
        return self.temperature == 0 and self.drafter not in WITHOUT_MODEL and self.make_policy().replayable


PLAIN = Arm("autoregressive")


def candidates(acceptance: list[float]) -> dict[str, list[dict]]:
    """What tuning compares: four settings per policy, all within the budget; the first of SAGE's is the paper's."""
    whole = {"nodes": NODES, "depth": DEPTH}
    return {
        "chain": [{"length": n} for n in (2, 4, 6, DEPTH)],
        "static": [{"parents": fitted_tree(acceptance, NODES, d).parents} for d in (4, 5, 6, DEPTH)],
        "eagle2": [whole | {"top_k": k} for k in (4, 6, 8, 10)],
        "opt_tree": [whole | {"threshold": t} for t in (0.0, 0.05, 0.1, 0.2)],
        "sage": [{}, {"scale": 0.03}, {"scale": 0.01}, {"threshold": "token"}],
    }


AS_STATED = "sage 0"
"""Of `trials`, SAGE as the paper states it."""


def trials(acceptance: list[float], pair: str = "vision") -> dict[str, Arm]:
    """The arms of tuning by name: each of `candidates` as a policy's "0" to "3"; of other pairs than "vision" those
    that can be replayed."""
    found = {
        f"{policy} {i}": Arm(policy, options, pair=pair)
        for policy, settings in candidates(acceptance).items()
        for i, options in enumerate(settings)
    }
    return {name: arm for name, arm in found.items() if pair == "vision" or arm.replayed}


SWITCHES = {
    "no look-ahead": {"source": "current"},
    "no history": {"adapt": "off"},
    "constant width": {"width": "constant"},
}
"""SAGE's three ideas, switched off one at a time."""
READINGS = {
    "threshold on the token": {"threshold": "token"},
    "source: deepest accepted": {"source": "deepest"},
    "plain floors": {"rounding": "floor"},
    "history caps D": {"adapt": "cap"},
    "source: mean over nodes": {"source": "mean"},
    "tree of each node's own": {"tree": "online"},
    "the same, on the token": {"tree": "online", "threshold": "token"},
}
"""The other readings of what the paper leaves open, one at a time. The last three have to be decoded."""


def arms(
    longest: dict[str, dict[str, dict]],
    cheapest: dict[str, dict[str, dict]],
    acceptance: dict[str, list[float]],
    sizes: dict[str, tuple[int, int]],
    sampling: tuple[float, ...],
) -> dict[str, Arm]:
    """All arms that the claims are judged by, by name.

    longest, cheapest: by pair, "vision" the first, the options tuned for it by policy; acceptance: shares by rank;
    sizes: mean nodes of SAGE's tree, as stated and as tuned. sampling: temperatures of the arms that are not greedy.
    """
    found: dict[str, Arm] = {}
    for pair in acceptance:
        end = "" if pair == "vision" else f", {pair}"
        stated, tuned = sizes[pair]

        def fitted(nodes, depth, pair=pair):
            return Arm("static", {"parents": fitted_tree(acceptance[pair], nodes, depth).parents}, pair=pair)

        found |= {f"{policy}{end}": Arm(policy, longest[pair][policy], pair=pair) for policy in ("chain", "static")}
        found |= {f"{policy}{end}": Arm(policy, pair=pair) for policy in ("specvlm", "sage")}
        found[f"sage, tuned{end}"] = Arm("sage", longest[pair]["sage"], pair=pair)
        found[f"static, small{end}"], found[f"static, tuned size{end}"] = fitted(stated, DEPTH), fitted(tuned, DEPTH)
        found[f"static, 25 nodes{end}"], found[f"static, 25 nodes, 5 levels{end}"] = fitted(25, DEPTH), fitted(25, 5)
        found[f"sage, 5 levels{end}"] = Arm("sage", {"dmax": 5}, pair=pair)
        found |= {
            f"{policy}, cheapest{end}": Arm(policy, cheapest[pair][policy], pair=pair)
            for policy in ("chain", "static", "sage")
        }
        found |= {f"{name}{end}": Arm("sage", options, pair=pair) for name, options in SWITCHES.items()}
    best, size = longest["vision"], sizes["vision"][0]
    small = {"nodes": size, "depth": DEPTH}
    found |= {policy: Arm(policy, best[policy]) for policy in ("eagle2", "opt_tree")}
    found["eagle2, small"] = Arm("eagle2", small | {"top_k": min(best["eagle2"]["top_k"], size)})
    found["opt_tree, small"] = Arm("opt_tree", small | {"threshold": best["opt_tree"]["threshold"]})
    found |= {name: Arm("sage", options) for name, options in READINGS.items()}
    found |= {f"{rule} {ratio}": Arm("sage", drafter=rule, ratio=ratio) for rule, ratio in PRUNED}
    found |= {kind: Arm("sage", drafter=kind) for kind in WITHOUT_MODEL}
    warm = {"autoregressive": {}, "static": best["static"], "eagle2": best["eagle2"], "sage": {}}
    return found | {
        f"{policy}, T = {temperature:g}": Arm(policy, options, temperature=temperature)
        for temperature in sampling
        for policy, options in warm.items()
    }


CHECKED = ("chain", "specvlm", "sage", "source: deepest accepted", "target's attention 0.9")
"""Arms that are replayed and decoded, so that the two can be compared; and SAGE on every other pair."""
AXES = {
    "nodes": (4, 8, 16, 25, 32, 48, NODES),
    "depth": (2, 3, 4, 5, 6, 7, DEPTH),
    "scale": (0.3, 0.1, 0.03, 0.01, 0.003, 0.0),
}
"""What the curves run over: most nodes, most levels, and SAGE's 0.1 of the threshold."""


def sweeps(longest: dict[str, dict[str, dict]], acceptance: dict[str, list[float]]) -> dict[tuple, Arm]:
    """The arms of the curves by (pair, policy, axis, value). "sage" is as stated, "sage, tuned" as tuned."""
    found = {}
    for pair, shares in acceptance.items():
        tuned = longest[pair]["sage"]
        for nodes in AXES["nodes"]:
            fitted = {"parents": fitted_tree(shares, nodes, DEPTH).parents}
            found[pair, "static", "nodes", nodes] = Arm("static", fitted, pair=pair)
            for name, options in (("sage", {}), ("sage, tuned", tuned)):
                found[pair, name, "nodes", nodes] = Arm("sage", options | {"nodes": nodes}, pair=pair)
        for depth in AXES["depth"]:
            fitted = {"parents": fitted_tree(shares, NODES, depth).parents}
            found[pair, "static", "depth", depth] = Arm("static", fitted, pair=pair)
            found[pair, "chain", "depth", depth] = Arm("chain", {"length": depth}, pair=pair)
            for name, options in (("sage", {}), ("sage, tuned", tuned)):
                levels = {"dmin": min(3, depth), "dmax": depth}
                found[pair, name, "depth", depth] = Arm("sage", options | levels, pair=pair)
        for scale in AXES["scale"]:
            found[pair, "sage", "scale", scale] = Arm("sage", {"scale": scale}, pair=pair)
    return found
