"""The SAGE experiment: adaptive trees against static and dynamic ones of the same budget.

Each cached by itself: `plain` decoding by transformers, `followed` (what the drafter holds of the target's tokens),
`decode` (all requests of a seed under one arm), and where the profile says so seconds, taken one arm at a time. The
profile chooses models and sizes. Policies are tuned on pictures that no claim is judged by.
"""

from dataclasses import asdict
from functools import partial
from itertools import chain

import pandas as pd

from palimpsest import decoding, runs
from palimpsest.chapters.sage import cost
from palimpsest.chapters.sage.arms import AS_STATED, PLAIN, Arm, arms, trials
from palimpsest.chapters.sage.profiles import PROFILES, Setting
from palimpsest.chapters.sage.requests import CANDIDATES, greedy, held
from palimpsest.chapters.sage.results import Results, forwards_per_token, size, tau
from palimpsest.chapters.shared.profiles import choose


def plain(profile: str, group: str, seed: int, target: str) -> list[list[int]]:
    """The new tokens of each request by transformers' own greedy decoding."""
    setting = choose(profile, PROFILES)
    model = setting.family.decoder(target).model
    return [greedy(model, one, setting.most) for one in setting.inputs(group, seed, target)]


def followed(profile: str, group: str, seed: int, pair: str) -> list[dict]:
    """What the drafter holds of each of the target's tokens, one row per token: see `requests.held`."""
    setting = choose(profile, PROFILES)
    target, drafter = setting.family.pairs[pair]
    model = setting.family.decoder(drafter).model
    asked = setting.inputs(group, seed, target)
    answers = runs.cached(plain, {"profile": profile, "group": group, "seed": seed, "target": target})
    return [
        {"request": i, **row}
        for i, (one, answer) in enumerate(zip(asked, answers, strict=True))
        for row in held(model, one, answer)
    ]


def decode(profile: str, group: str, seed: int, **arm) -> list[dict]:
    """One row per request of what its tokens cost; `arm`: the fields of an `Arm`.

    Target and drafter decode the requests side by side: the counts are those of each alone.
    """
    setting, arm = choose(profile, PROFILES), Arm(**arm)
    names = setting.family.pairs[arm.pair]
    target, drafter = (setting.family.decoder(name) for name in names)
    answers = decoding.generate_batch(
        target,
        arm.make_drafter(drafter),
        setting.inputs(group, seed, names[0]),
        policy=arm.make_policy(),
        max_new_tokens=setting.most,
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


def tuned(table: pd.DataFrame, tried: dict[str, Arm], price: float) -> tuple[pd.DataFrame, dict, dict]:
    """(a row per setting tried, the options with the longest accepted length by policy, those of the lowest cost).

    table: the rows of the arms `tried`. price: a drafter's forward as a share of the target's.
    """
    found = pd.DataFrame(
        [
            {"policy": arm.policy, "options": arm.options, "tau": tau(rows), "cost": forwards_per_token(rows, price)}
            for (_, rows), arm in zip(table.groupby("arm", sort=False), tried.values(), strict=True)
        ]
    )
    longest, cheapest = (
        {policy: part.options[pick(part)] for policy, part in found.groupby("policy")}
        for pick in (lambda part: part.tau.idxmax(), lambda part: part.cost.idxmin())
    )
    return found, longest, cheapest


def execute(profile: str) -> Results:
    """Plain answers, tuning, all arms, seconds. Every step is cached, so it can be stopped and goes on where it was.

    Raises ValueError for a profile that is not one of `PROFILES`, and for models that are missing.
    """
    setting = choose(profile, PROFILES)
    family = setting.family
    prices = {pair: family.price(pair) for pair in family.pairs}  # what is missing is said before all else
    family.prepare()
    measured = {"quality": family.quality()}
    answers, held_of = _answers(profile, setting)
    of_tuning = held_of[held_of.group == "tuning"]
    acceptance = {
        pair: [float((part["rank"] == rank).mean()) for rank in range(CANDIDATES)]
        for pair, part in of_tuning.groupby("pair", sort=False)
    }
    run = partial(_run_arms, profile)
    tried = trials(acceptance["vision"])
    table = run("tuning", setting.tuning_seeds, tried, "SAGE 2/3: tuning")
    tuning, longest, cheapest = tuned(table, tried, prices["vision"])
    nodes = max(round(size(table[table.arm == AS_STATED])), 1)
    chosen = arms(longest, cheapest, acceptance, nodes, setting.sampling)
    if setting.timed:
        chosen = {"autoregressive": PLAIN} | chosen  # the others' seconds are compared with its own
    rows = run("evaluation", setting.seeds, chosen, "SAGE 3/3: arms")
    rows["same"] = _same(rows, chosen, setting, answers)
    measured |= {"forwards": [], "acceptance": acceptance["vision"]}
    timed = []
    if setting.timed:
        timed, measured["forwards"] = _seconds(profile, setting, chosen)
    evaluated = held_of[held_of.group == "evaluation"]
    return Results(tuning, rows, chosen, evaluated, prices, pd.DataFrame(timed), measured)


def _answers(profile: str, setting: Setting) -> tuple[dict[tuple, list[list[int]]], pd.DataFrame]:
    """Plain decoding's by group, seed and target; and `followed` of every group, seed and pair."""
    pairs = setting.family.pairs

    def jobs_of(key: str, values) -> list[dict]:
        return [
            {"profile": profile, "group": group, "seed": seed, key: value}
            for group, seeds in setting.groups.items()
            for seed in seeds
            for value in values
        ]

    jobs = jobs_of("target", dict.fromkeys(target for target, _ in pairs.values()))
    said = runs.run_all(plain, jobs, show="SAGE 1/3: plain")
    answers = {(job["group"], job["seed"], job["target"]): one for job, one in zip(jobs, said, strict=True)}
    jobs = jobs_of("pair", pairs)
    return answers, _rows_of(jobs, runs.run_all(followed, jobs, show="SAGE 1/3: drafter"))


def _run_arms(profile: str, group: str, seeds: tuple[int, ...], which: dict[str, Arm], show: str) -> pd.DataFrame:
    """The rows of `decode`, cached, for every arm and seed; and "arm"."""
    jobs = [
        {"profile": profile, "group": group, "seed": seed, **asdict(arm)} for arm in which.values() for seed in seeds
    ]
    names = [{"arm": name} for name in which for _ in seeds]
    return _rows_of(names, runs.run_all(decode, jobs, show=show))


def _rows_of(names: list[dict], parts: list[list[dict]]) -> pd.DataFrame:
    """The rows of all parts, each with what its part is named by."""
    return pd.DataFrame(
        chain.from_iterable([name | row for row in part] for name, part in zip(names, parts, strict=True))
    )


def _same(rows: pd.DataFrame, chosen: dict[str, Arm], setting: Setting, answers: dict) -> list[bool]:
    """Whether a decode's tokens are plain decoding's: transformers' greedy ones, or this decoder's of that noise."""
    drawn = {
        (chosen[row.arm].temperature, row.seed, row.request): row.tokens
        for row in rows.itertuples()
        if chosen[row.arm].policy == "autoregressive" and chosen[row.arm].temperature
    }

    def expected(row) -> list[int]:
        arm = chosen[row.arm]
        if arm.temperature:
            return drawn[arm.temperature, row.seed, row.request]
        return answers["evaluation", row.seed, setting.family.pairs[arm.pair][0]][row.request]

    return [row.tokens == expected(row) for row in rows.itertuples()]


def _seconds(profile: str, setting: Setting, chosen: dict[str, Arm]) -> tuple[list[dict], list[dict]]:
    """The rows of `cost.seconds` of every timed request and those of `cost.forwards`, taken here and not by the
    workers: nothing else may run meanwhile."""
    which = {name: asdict(chosen[name]) for name in cost.TIMED}
    timed = [
        row
        for seed in setting.seeds
        for request in range(setting.timed)
        for row in runs.cached(cost.seconds, {"profile": profile, "seed": seed, "request": request, "arms": which})
    ]
    return timed, runs.cached(cost.forwards, {"profile": profile})
