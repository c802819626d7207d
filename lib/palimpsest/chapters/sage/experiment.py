"""The SAGE experiment: adaptive trees against static and dynamic ones of the same budget.

Steps, each cached by itself: `plain` decoding by transformers, `followed` (what the drafter holds of the target's
tokens), `decode` (all requests of a seed under one arm). Every policy is tuned over four settings on pictures that
no verdict sees, and may use `NODES` nodes and `DEPTH` levels, the paper's allowance for SAGE.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain

import pandas as pd

from palimpsest import decoding, runs
from palimpsest.chapters.sage import requests as sage_requests
from palimpsest.chapters.sage.requests import CANDIDATES, PAIRS, PROFILES
from palimpsest.chapters.shared.profiles import choose
from palimpsest.decoding import Decoder, Policy, Tree
from palimpsest.decoding.policies.static import Static, fitted_tree
from palimpsest.nets.vision_language import LANGUAGE

NODES, DEPTH = 64, 8
"""Nmax and Dmax of SAGE (section 5.1), granted to every policy."""
RATIOS = (0.5, 0.8, 0.9, 0.95)
"""Shares of the picture's tokens that the drafter does without."""


@dataclass(frozen=True)
class Arm:
    """A policy with its options, who drafts ("model", "recycling", "lookup", or a way to prune and a ratio, as in
    "attention 0.8"), which pair, and the temperature."""

    policy: str
    options: dict = field(default_factory=dict)
    drafter: str = "model"
    pair: str = "vision"
    temperature: float = 0.0


def decode(profile: str, group: str, seed: int, **arm) -> list[dict]:
    """One row a request of what its tokens cost; `arm`: the fields of an `Arm`."""
    arm = Arm(**arm)
    pair = [sage_requests.decoder(name) for name in PAIRS[arm.pair]]
    asked = sage_requests.inputs(profile, group, seed, PAIRS[arm.pair][0])
    return decoded(pair, asked, arm, seed, choose(profile, PROFILES).most)


def decoded(pair: Sequence[Decoder], asked: list[dict], arm: Arm, seed: int, most: int) -> list[dict]:
    """One row a request. Target and drafter decode them side by side: the counts are those of each alone."""
    target, drafter = pair
    answers = decoding.generate_batch(
        target,
        proposer(drafter, arm.drafter),
        asked,
        policy=make(arm.policy, arm.options),
        max_new_tokens=most,
        temperature=arm.temperature,
        seed=seed,
        trace=True,
    )
    return [
        {
            "seed": seed,
            "request": i,
            "tokens": answer.tokens,
            "accepted": answer.stats.accepted,
            "sizes": answer.stats.tree_sizes,
            "depths": [one.tree.depth for one in answer.stats.trace],
            "alphas": answer.stats.alphas,
            "target forwards": answer.stats.target_forwards,
            "draft forwards": answer.stats.draft_forwards,
        }
        for i, answer in enumerate(answers)
    ]


def make(policy: str, options: dict) -> Policy:
    """The policy; a static tree's options are its "parents"."""
    if policy == "static" and options:
        return Static(Tree(tuple(options["parents"])))
    return decoding.policies[policy](**options)


def proposer(model: Decoder, kind: str) -> decoding.Drafter:
    """Who drafts, as `Arm.drafter` names it; `model` is the pair's drafter."""
    if kind in ("recycling", "lookup"):
        return decoding.TokenRecycling() if kind == "recycling" else decoding.PromptLookup()
    if kind == "model":
        return decoding.ModelDrafter(model)
    by, ratio = kind.split()
    return decoding.PrunedDrafter(model, float(ratio), by=by)


def candidates(acceptance: list[float]) -> dict[str, list[dict]]:
    """What tuning compares: four settings a policy, all within the budget."""
    whole = {"nodes": NODES, "depth": DEPTH}
    return {
        "chain": [{"length": n} for n in (2, 4, 6, DEPTH)],
        "entropy_chain": [{"length": DEPTH, "threshold": t} for t in (0.3, 0.4, 0.5, 0.6)],
        "static": [{"parents": fitted_tree(acceptance, NODES, d).parents} for d in (4, 5, 6, DEPTH)],
        "eagle2": [whole | {"top_k": k} for k in (4, 6, 8, 10)],
        "opt_tree": [whole | {"threshold": t} for t in (0.0, 0.05, 0.1, 0.2)],
        "sage": [{"tree": t, "threshold": h} for t in ("template", "online") for h in ("path", "token")],
    }


def trials(acceptance: list[float]) -> dict[str, Arm]:
    """The arms of tuning by name: each of `candidates` as a policy's "0" to "3"."""
    return {
        f"{policy} {i}": Arm(policy, options)
        for policy, settings in candidates(acceptance).items()
        for i, options in enumerate(settings)
    }


def tuned(table: pd.DataFrame, tried: dict[str, Arm], ratio: float) -> tuple[pd.DataFrame, dict, dict]:
    """(a row a setting tried, the options with the longest accepted length by policy, those of the lowest `cost`).

    table: the rows of the arms `tried`. ratio: a drafter's forward as a share of the target's.
    """
    found = pd.DataFrame(
        [
            {"policy": arm.policy, "options": arm.options, "tau": tau(rows), "cost": cost(rows, ratio)}
            for (_, rows), arm in zip(table.groupby("arm", sort=False), tried.values(), strict=True)
        ]
    )
    longest, cheapest = (
        {policy: part.options[pick(part)] for policy, part in found.groupby("policy")}
        for pick in (lambda part: part.tau.idxmax(), lambda part: part.cost.idxmin())
    )
    return found, longest, cheapest


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


def arms(longest: dict[str, dict], cheapest: dict[str, dict], acceptance: dict, size: int) -> dict[str, Arm]:
    """All arms of the verdict by name. longest, cheapest: options by policy; acceptance: shares by rank and pair;
    size: nodes of SAGE's mean tree. Other drafters take over the options, and get static trees of their own."""
    small = {"nodes": size, "depth": DEPTH}
    found = {policy: Arm(policy, longest[policy]) for policy in longest if policy != "sage"}
    found |= {"sage": Arm("sage"), "sage, tuned": Arm("sage", longest["sage"])}
    found |= {f"{policy}, cheapest": Arm(policy, options) for policy, options in cheapest.items()}
    found["specvlm"] = Arm("static")
    found["static, small"] = Arm("static", {"parents": fitted_tree(acceptance["vision"], size, DEPTH).parents})
    found["eagle2, small"] = Arm("eagle2", small | {"top_k": min(longest["eagle2"]["top_k"], size)})
    found["opt_tree, small"] = Arm("opt_tree", small | {"threshold": longest["opt_tree"]["threshold"]})
    found |= {name: Arm("sage", options) for name, options in (SWITCHES | READINGS).items()}
    found |= {f"attention {r}": Arm("sage", drafter=f"attention {r}") for r in RATIOS}
    found |= {f"{by} {r}": Arm("sage", drafter=f"{by} {r}") for by in ("uniform", "random") for r in RATIOS[1:3]}
    found |= {kind: Arm("sage", drafter=kind) for kind in ("recycling", "lookup")}
    for pair in ("distilled", "text"):
        fitted = {"parents": fitted_tree(acceptance[pair], NODES, DEPTH).parents}
        others = {"chain": longest["chain"], "static": fitted, "eagle2": longest["eagle2"], "sage": {}}
        found |= {f"{policy}, {pair}": Arm(policy, options, pair=pair) for policy, options in others.items()}
        found[f"specvlm, {pair}"] = Arm("static", pair=pair)
    warm = {"autoregressive": {}, "static": longest["static"], "eagle2": longest["eagle2"], "sage": {}}
    return found | {f"{policy}, T = 1": Arm(policy, options, temperature=1.0) for policy, options in warm.items()}


@dataclass(frozen=True, eq=False)
class Results:
    """`tuning`: a row a policy and setting. `runs`: a row an arm, seed and request, with "same": whether the tokens
    are plain decoding's. `arms` by name. `followed`: a row a token of the target, see `sage_requests.followed`."""

    tuning: pd.DataFrame
    runs: pd.DataFrame
    arms: dict[str, Arm]
    followed: pd.DataFrame

    @property
    def tuned(self) -> list[dict]:
        """The options chosen, as rows."""
        return [{"arm": name, **asdict(arm)} for name, arm in self.arms.items()]

    def of(self, arm: str) -> pd.DataFrame:
        """The rows of one arm. ValueError for an arm that was not run."""
        rows = self.runs[self.runs.arm == arm]
        if rows.empty:
            raise ValueError(f"no arm {arm!r} was run")
        return rows

    def by_seed(self, arm: str, measure) -> pd.Series:
        """`measure` (of the rows of one seed) by seed."""
        return pd.Series({seed: measure(rows) for seed, rows in self.of(arm).groupby("seed")})


def tau(rows: pd.DataFrame) -> float:
    """Accepted drafts a round, all rounds of these requests alike."""
    return rows.accepted.map(sum).sum() / rows.accepted.map(len).sum()


def size(rows: pd.DataFrame) -> float:
    """Drafted nodes a round."""
    return rows.sizes.map(sum).sum() / rows.accepted.map(len).sum()


def cost(rows: pd.DataFrame, ratio: float) -> float:
    """Target forwards a token, a drafter's forward counted as `ratio` of one; prefills apart."""
    forwards = (rows["target forwards"] - 1).sum() + ratio * (rows["draft forwards"] - 1).clip(lower=0).sum()
    return forwards / (rows.tokens.map(len) - 1).sum()


def price() -> float:
    """A picture drafter's forward as a share of the target's: their layers' ratio, the same on every machine."""
    target, drafter = (LANGUAGE[name][2] for name in PAIRS["vision"])
    return drafter / target


def execute(profile: str) -> Results:
    """Plain answers, tuning, all arms. Every step is cached, so it can be stopped."""
    setting = choose(profile, PROFILES)
    groups = {"tuning": setting.tuning_seeds, "verdict": setting.seeds}

    def jobs_of(**options):
        """A job for each value of the one option, group and seed."""
        ((key, values),) = options.items()
        return [
            {"profile": profile, "group": group, "seed": seed, key: value}
            for group, seeds in groups.items()
            for seed in seeds
            for value in values
        ]

    jobs = jobs_of(target=dict.fromkeys(target for target, _ in PAIRS.values()))
    answers = {
        (job["group"], job["seed"], job["target"]): value
        for job, value in zip(jobs, runs.run_all(sage_requests.plain, jobs, show="SAGE 1/3: plain"), strict=True)
    }
    jobs = jobs_of(pair=PAIRS)
    held = rows_of(jobs, runs.run_all(sage_requests.followed, jobs, show="SAGE 1/3: drafter"))
    tuning = held[held.group == "tuning"]
    acceptance = {
        pair: [(part["rank"] == rank).mean() for rank in range(CANDIDATES)] for pair, part in tuning.groupby("pair")
    }
    run = partial(run_arms, decode, profile)
    tried = trials(acceptance["vision"])
    table = run("tuning", setting.tuning_seeds, tried, "SAGE 2/3: tuning")
    settings, longest, cheapest = tuned(table, tried, price())
    nodes = round(size(table[table.arm == "sage 0"]))
    chosen = arms(longest, cheapest, acceptance, max(nodes, 1))
    rows = run("verdict", setting.seeds, chosen, "SAGE 3/3: arms")
    reference = {
        (one.seed, one.request): one.tokens for one in rows[rows.arm == "autoregressive, T = 1"].itertuples()
    }

    def expected(row) -> list[int]:
        arm = chosen[row.arm]
        if arm.temperature:
            return reference[row.seed, row.request]
        return answers["verdict", row.seed, PAIRS[arm.pair][0]][row.request]

    rows["same"] = [row.tokens == expected(row) for row in rows.itertuples()]
    return Results(settings, rows, chosen, held[held.group == "verdict"])


def run_arms(
    decode: Callable, profile: str, group: str, seeds: tuple[int, ...], which: dict[str, Arm], show: str
) -> pd.DataFrame:
    """The rows of `decode`(profile, group, seed, the fields of an arm), cached, for every arm and seed; and "arm"."""
    jobs = [
        {"profile": profile, "group": group, "seed": seed, **asdict(arm)} for arm in which.values() for seed in seeds
    ]
    names = [{"arm": name} for name in which for _ in seeds]
    return rows_of(names, runs.run_all(decode, jobs, show=show))


def rows_of(names: list[dict], parts: list[list[dict]]) -> pd.DataFrame:
    """The rows of all parts, each with what its part is named by."""
    return pd.DataFrame(
        chain.from_iterable([name | row for row in part] for name, part in zip(names, parts, strict=True))
    )
