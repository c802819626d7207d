"""The SAGE experiment: adaptive trees against static and dynamic ones of the same budget.

Each cached by itself: `plain` (the target's texts), `followed` (what a drafter holds along them), `replayed` (the
rounds of any number of arms, read off both) and `decode` (arms that must be decoded, and a check of those that need
not). The profile chooses models and sizes. Policies are tuned on pictures that no claim is judged by.
"""

from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain

import numpy as np
import pandas as pd
import torch

from palimpsest import decoding, runs
from palimpsest.chapters.sage import cost
from palimpsest.chapters.sage.arms import AS_STATED, CHECKED, PLAIN, PRUNING, Arm, arms, sweeps, trials
from palimpsest.chapters.sage.profiles import PROFILES, Setting
from palimpsest.chapters.sage.requests import CANDIDATES, greedy
from palimpsest.chapters.sage.results import Costs, Results, cost_per_token, size, tau
from palimpsest.chapters.shared.profiles import choose
from palimpsest.decoding.distributions import Distribution
from palimpsest.decoding.replay import Followed, follow, replay


def plain(profile: str, group: str, seed: int, target: str) -> list[list[int]]:
    """The target's greedy text about each request, all of a seed side by side."""
    setting = choose(profile, PROFILES)
    asked = setting.inputs(group, seed, target)
    decoder = setting.family.decoder(target)
    answers = decoding.generate_batch(decoder, None, asked, policy="autoregressive", max_new_tokens=setting.most)
    return [answer.tokens for answer in answers]


def reference(profile: str, seed: int, count: int) -> list[list[int]]:
    """The same of a seed's first requests by transformers' own greedy decoding, one at a time."""
    setting = choose(profile, PROFILES)
    target = setting.family.pairs["vision"][0]
    model = setting.family.decoder(target).model
    return [greedy(model, one, setting.most) for one in setting.inputs("evaluation", seed, target, count)]


def followed(
    profile: str, group: str, seed: int, pair: str, drafter: str, ratio: float, count: int
) -> dict[str, torch.Tensor]:
    """What a drafter holds along the target's texts about a seed's first `count` requests.

    "lengths" [count] of the texts; "text", all their tokens in a row; of the token after which it stands, all but
    each text's last: "tokens" [T, k], "probs" [T, k], "alpha" and "mass" [T], see `decoding.Distribution`.
    """
    setting = choose(profile, PROFILES)
    names = setting.family.pairs[pair]
    target, model = (setting.family.decoder(name) for name in names)
    texts = runs.cached(plain, {"profile": profile, "group": group, "seed": seed, "target": names[0]})[:count]
    asked = setting.inputs(group, seed, names[0], count)
    one = Arm("sage", drafter=drafter, ratio=ratio, pair=pair).make_drafter(target, model)
    known = [
        follow(one, inputs, text, CANDIDATES, target.vocabulary) for inputs, text in zip(asked, texts, strict=True)
    ]
    every = [distribution for text in known for distribution in text.distributions]
    columns = {
        name: torch.tensor([getattr(d, name) for d in every], dtype=torch.float64) for name in ("alpha", "mass")
    }
    columns |= {"probs": torch.tensor([list(d.probs) for d in every], dtype=torch.float64)}
    columns |= {"tokens": torch.tensor([list(d.tokens) for d in every])}
    lengths = torch.tensor([len(text) for text in texts])
    return columns | {"lengths": lengths, "text": torch.tensor(list(chain.from_iterable(texts)))}


def _texts(**job) -> list[Followed]:
    """`followed` as `replay` takes it."""
    stored = {name: values.tolist() for name, values in runs.artifact(followed, job).items()}
    known = [
        Distribution(*row) for row in zip(*(stored[n] for n in ("tokens", "probs", "alpha", "mass")), strict=True)
    ]
    found, first, place = [], 0, 0
    for length in stored["lengths"]:
        text = stored["text"][first : first + length]
        found.append(Followed(text, known[place : place + length - 1]))
        first, place = first + length, place + length - 1
    return found


def held(**job) -> list[dict]:
    """What the drafter holds of the target's tokens but each text's first, a row per text: "rank"s among the ten
    likeliest (10 if it is not there), its confidence "alpha" there and the likeliest's probability "first", of
    ten."""
    return [
        {
            "request": i,
            "rank": text.ranks,
            "alpha": [one.alpha for one in text.distributions],
            "first": [one.probs[0] for one in text.distributions],
        }
        for i, text in enumerate(_texts(**job))
    ]


def replayed(profile: str, arms: list[dict], **job) -> list[list[dict]]:
    """Of each arm, given by its fields, the rows of `decode` without decoding; `job`: the rest of `followed`'s."""
    most, texts = choose(profile, PROFILES).most, _texts(profile=profile, **job)
    return [
        [_row(i, text.tokens, replay(policy, text, most)) for i, text in enumerate(texts)]
        for policy in (Arm(**arm).make_policy() for arm in arms)
    ]


def _row(request, tokens, rounds) -> dict:
    trees = [one.tree for one in rounds]
    asked = [one.tree for one in rounds if one.alpha is not None]
    return {
        "request": request,
        "length": len(tokens),
        "accepted": [one.accepted for one in rounds],
        "sizes": [len(tree) for tree in trees],
        "depths": [tree.depth for tree in trees],
        "alphas": [one.alpha for one in rounds],
        "expanded": [len(set(tree.parents) - {-1}) for tree in trees],
        "target forwards": 1 + len(rounds),
        "draft forwards": sum(max(tree.depth, 1) for tree in asked),
    }


def decode(profile: str, group: str, seed: int, count: int, **arm) -> list[dict]:
    """One row per request, a seed's first `count`, of what its tokens cost; `arm`: the fields of an `Arm`.

    Target and drafter decode the requests side by side: the counts are those of each alone. "draft forwards" are
    those behind the prefill; "expanded": of each round the verified nodes that the drafter was asked about.
    """
    setting, arm = choose(profile, PROFILES), Arm(**arm)
    names = setting.family.pairs[arm.pair]
    target, drafter = (setting.family.decoder(name) for name in names)
    answers = decoding.generate_batch(
        target,
        arm.make_drafter(target, drafter),
        setting.inputs(group, seed, names[0], count),
        policy=arm.make_policy(),
        max_new_tokens=setting.most,
        temperature=arm.temperature,
        seed=seed,
        trace=True,
    )
    return [
        {
            "request": i,
            "tokens": answer.tokens,
            "length": len(answer.tokens),
            "accepted": answer.stats.accepted,
            "sizes": answer.stats.tree_sizes,
            "depths": [one.tree.depth for one in answer.stats.trace],
            "alphas": answer.stats.alphas,
            "expanded": [sum(alpha is not None for alpha in one.alphas) for one in answer.stats.trace],
            "target forwards": answer.stats.target_forwards,
            "draft forwards": answer.stats.draft_forwards - min(arm.prefills, answer.stats.draft_forwards),
        }
        for i, answer in enumerate(answers)
    ]


def tuned(table: pd.DataFrame, tried: dict[str, Arm], costs: Costs) -> tuple[pd.DataFrame, dict, dict]:
    """(a row per setting tried and seed, the options with the longest accepted length by policy, those of the lowest
    cost). table: the rows of the arms `tried`."""
    per_seed, whole = [], []
    for name, arm in tried.items():
        rows = table[table.arm == name]
        named = {"pair": arm.pair, "policy": arm.policy, "options": arm.options}
        whole.append(named | {"tau": tau(rows), "cost": cost_per_token(rows, costs)})
        per_seed += [
            named | {"seed": seed, "tau": tau(part), "nodes": size(part), "cost": cost_per_token(part, costs)}
            for seed, part in rows.groupby("seed")
        ]
    longest, cheapest = (
        {policy: part.options[pick(part)] for policy, part in pd.DataFrame(whole).groupby("policy")}
        for pick in (lambda part: part.tau.idxmax(), lambda part: part.cost.idxmin())
    )
    return pd.DataFrame(per_seed), longest, cheapest


def execute(profile: str) -> Results:
    """Texts, drafters along them, tuning, all arms, seconds. Every step is cached, so it can be stopped and goes on
    where it was.

    Raises ValueError for a profile that is not one of `PROFILES`, and for models that are missing.
    """
    setting = choose(profile, PROFILES)
    family = setting.family
    family.prepare()
    measured = {"quality": family.quality(), "forwards": []}
    if setting.timed:
        measured["forwards"] = runs.cached(cost.forwards, {"profile": profile})
    costs = Costs(pd.DataFrame(measured["forwards"])) if setting.timed else cost.recorded()
    texts, known = _answers(profile, setting)
    acceptance = {
        pair: np.bincount(part["rank"], minlength=CANDIDATES + 1)[:CANDIDATES] / len(part)
        for pair, part in known[known.group == "tuning"].groupby("pair", sort=False)
    }
    acceptance = measured["acceptance"] = {pair: shares.tolist() for pair, shares in acceptance.items()}
    run = _Runner(profile, setting)
    parts, longest, cheapest, sizes = [], {}, {}, {}
    for pair, shares in acceptance.items():
        tried = trials(shares, pair)
        table = run("tuning", tried, setting.tuned, f"SAGE 2/4: tuning, {pair}")
        part, longest[pair], cheapest[pair] = tuned(table, tried, costs)
        parts.append(part)
        best = next(
            name for name, arm in tried.items() if arm.policy == "sage" and arm.options == longest[pair]["sage"]
        )
        sizes[pair] = tuple(max(round(size(table[table.arm == name])), 1) for name in (AS_STATED, best))
    chosen = arms(longest, cheapest, acceptance, sizes, setting.sampling)
    if setting.timed:
        chosen = {"autoregressive": PLAIN} | chosen  # the others' seconds are compared with its own
    rows = run("evaluation", chosen, setting.decoded, "SAGE 3/4: arms")
    also = {name: arm for name, arm in chosen.items() if name in CHECKED or name == f"sage, {arm.pair}"}
    checked = run.decoded("evaluation", also, setting.checked, "SAGE 3/4: check of the replay")
    checked["equal"] = _equal(checked, rows, texts)
    expected = _expected(profile, setting, texts, chosen, rows)
    for table in (rows, checked):
        table["same"] = [
            None if isinstance(row.tokens, float) else row.tokens == expected(row) for row in table.itertuples()
        ]
    curves = _curves(run, sweeps(longest, acceptance))
    timed = pd.DataFrame(_seconds(profile, setting, chosen) if setting.timed else [])
    evaluated = known[known.group == "evaluation"]
    return Results(pd.concat(parts), rows, checked, chosen, evaluated, curves, costs, timed, measured)


class _Runner:
    """The rows of arms, replayed where they can be and decoded where not, all cached."""

    def __init__(self, profile: str, setting: Setting):
        self.profile, self.setting = profile, setting

    def __call__(self, group: str, which: dict[str, Arm], count: int, show: str) -> pd.DataFrame:
        """Every arm on every seed of the group, decoded ones on the first `count` requests; "arm", "seed" and
        "how"."""
        ready = {name: arm for name, arm in which.items() if arm.replayed}
        others = {name: arm for name, arm in which.items() if name not in ready}
        parts = [self.replayed(group, ready, show)]
        if others:
            parts.append(self.decoded(group, others, count, show))
        return pd.concat(parts, ignore_index=True)

    def replayed(self, group: str, which: dict[str, Arm], show: str) -> pd.DataFrame:
        each = self.setting.tuned if group == "tuning" else self.setting.requests
        kinds: dict[tuple, dict[str, Arm]] = {}
        for name, arm in which.items():
            kinds.setdefault((arm.pair, arm.drafter, arm.ratio), {})[name] = arm
        jobs, names = [], []
        for (pair, drafter, ratio), members in kinds.items():
            count = min(each, self.setting.pruned) if drafter in PRUNING else each
            for seed in self.setting.groups[group]:
                job = {"group": group, "seed": seed, "pair": pair, "drafter": drafter, "ratio": ratio, "count": count}
                fields = [asdict(arm) for arm in members.values()]
                jobs.append({"profile": self.profile, "arms": fields, **job})
                names.append([{"arm": name, "seed": seed, "how": "replayed"} for name in members])
        found = runs.run_all(replayed, jobs, show=show)
        return _rows_of(chain.from_iterable(names), chain.from_iterable(found))

    def decoded(self, group: str, which: dict[str, Arm], count: int, show: str) -> pd.DataFrame:
        seeds = self.setting.groups[group]
        jobs = [
            {"profile": self.profile, "group": group, "seed": seed, "count": count, **asdict(arm)}
            for arm in which.values()
            for seed in seeds
        ]
        names = [{"arm": name, "seed": seed, "how": "decoded"} for name in which for seed in seeds]
        return _rows_of(names, runs.run_all(decode, jobs, show=show))


def _answers(profile: str, setting: Setting) -> tuple[dict[tuple, list[list[int]]], pd.DataFrame]:
    """The target's texts by group and seed; and `held` of every group, seed and pair, a row per token."""
    pairs, target = setting.family.pairs, setting.family.pairs["vision"][0]
    seeds = [(group, seed) for group, seeds in setting.groups.items() for seed in seeds]
    jobs = [{"profile": profile, "group": group, "seed": seed, "target": target} for group, seed in seeds]
    texts = dict(zip(seeds, runs.run_all(plain, jobs, show="SAGE 1/4: texts"), strict=True))
    jobs = [
        {"profile": profile, "group": group, "seed": seed, "pair": pair, "drafter": "model", "ratio": 0.0}
        | {"count": setting.tuned if group == "tuning" else setting.requests}
        for pair in pairs
        for group, seed in seeds
    ]
    names = [{name: job[name] for name in ("pair", "group", "seed")} for job in jobs]
    table = _rows_of(names, runs.run_all(held, jobs, show="SAGE 1/4: drafters"))
    return texts, table.explode(["rank", "alpha", "first"], ignore_index=True).astype(
        {"rank": int, "alpha": float, "first": float}
    )


def _rows_of(names: Iterable[dict], parts: Iterable[list[dict]]) -> pd.DataFrame:
    """The rows of all parts, each with what its part is named by."""
    return pd.DataFrame(
        chain.from_iterable([name | row for row in part] for name, part in zip(names, parts, strict=True))
    )


def _equal(checked: pd.DataFrame, rows: pd.DataFrame, texts: dict) -> list[bool]:
    """Whether a decode is what its replay says: the text, and of every round the drafts accepted and the tree."""
    counts = ("accepted", "sizes", "depths", "expanded", "target forwards", "draft forwards")
    known = {(row["arm"], row["seed"], row["request"]): row for row in rows.to_dict("records")}
    return [
        row["tokens"] == texts["evaluation", row["seed"]][row["request"]]
        and all(row[name] == known[row["arm"], row["seed"], row["request"]][name] for name in counts)
        for row in checked.to_dict("records")
    ]


def _expected(profile: str, setting: Setting, texts: dict, chosen: dict[str, Arm], rows: pd.DataFrame):
    """Of a decoded row, the tokens of plain decoding: transformers' greedy ones, or this decoder's of that noise."""
    count = max(setting.decoded, setting.checked)
    jobs = [{"profile": profile, "seed": seed, "count": count} for seed in setting.seeds]
    greedily = dict(zip(setting.seeds, runs.run_all(reference, jobs, show="SAGE 3/4: transformers"), strict=True))
    drawn = {
        (chosen[row.arm].temperature, row.seed, row.request): row.tokens
        for row in rows.itertuples()
        if chosen[row.arm].policy == "autoregressive" and chosen[row.arm].temperature
    }

    def expected(row) -> list[int]:
        heat = chosen[row.arm].temperature
        return drawn[heat, row.seed, row.request] if heat else greedily[row.seed][row.request]

    return expected


def _curves(run: _Runner, which: dict[tuple, Arm]) -> pd.DataFrame:
    """ "tau" and "nodes" of each sweep's arms by seed."""
    rows = run.replayed("evaluation", which, "SAGE 4/4: curves")
    found = []
    for (name, seed), part in rows.groupby(["arm", "seed"], sort=False):
        named = dict(zip(("pair", "policy", "axis", "value"), name, strict=True))
        found.append(named | {"seed": seed, "tau": tau(part), "nodes": size(part)})
    return pd.DataFrame(found)


def _seconds(profile: str, setting: Setting, chosen: dict[str, Arm]) -> list[dict]:
    """The rows of `cost.seconds` of every timed request, taken here and not by the workers: nothing else may run
    meanwhile."""
    which = {name: asdict(chosen[name]) for name in cost.TIMED}
    return [
        row
        for seed in setting.seeds
        for request in range(setting.timed)
        for row in runs.cached(cost.seconds, {"profile": profile, "seed": seed, "request": request, "arms": which})
    ]
