"""Neighbours of SAGE under SAGE's budget: other drafters, another tree, and decoding that is not lossless.

The target's texts and SAGE's rows are those of chapter 5, on the same pictures.
"""

from dataclasses import asdict, dataclass

import pandas as pd

from palimpsest import runs
from palimpsest.chapters.neighbours.decoding_arms import ARMS, PROFILES, decode, skipped, switched, texts
from palimpsest.chapters.sage import experiment as sage
from palimpsest.chapters.sage.arms import Arm
from palimpsest.chapters.sage.cost import recorded
from palimpsest.chapters.sage.profiles import PROFILES as CHAPTER
from palimpsest.chapters.sage.results import Costs, cost_per_token, size, tau
from palimpsest.chapters.shared.profiles import choose

LAYERS = {"target": 16, "drafter": 2}
"""Of the shipped pair."""
FROM_CHAPTER = {"recycling, SAGE": "recycling", "prompt lookup, SAGE": "lookup"}
"""Drafters that chapter 5 decodes with SAGE, on as many requests."""


@dataclass(frozen=True, eq=False)
class Results:
    """lossless: a row per arm, seed and request, see `decoding_arms.decode`. lossy: the same of `switched`, by
    "threshold"."""

    lossless: pd.DataFrame
    lossy: pd.DataFrame

    def by_seed(self, arm: str, measure: str, beside: str | None = None) -> pd.Series:
        """ "tau", "nodes" or "cost" of an arm by seed; `beside`: on the requests of that arm alone. ValueError for an
        arm that was not run."""
        rows, table = self.lossless[self.lossless.arm == arm], self.lossless
        if rows.empty:
            raise ValueError(f"arm: got {arm!r}, want one of {sorted(table.arm.unique())}")
        if beside is not None:
            other = table[table.arm == beside]
            common = set(zip(other.seed, other.request, strict=True))
            rows = rows[[pair in common for pair in zip(rows.seed, rows.request, strict=True)]]
        measures = {"tau": tau, "nodes": size, "cost": lambda part: cost_per_token(part, costs_of(arm))}
        return pd.Series({seed: measures[measure](part) for seed, part in rows.groupby("seed")})


def costs_of(arm: str) -> Costs:
    """Seconds of forwards as recorded for chapter 5's pair; of a target with layers left out on the straight line
    between drafter and target, by the number of layers."""
    costs = recorded()
    if not arm.startswith("skipping"):
        return costs
    kept = LAYERS["target"] / float(arm.split("×")[0].split()[-1])
    share = (kept - LAYERS["drafter"]) / (LAYERS["target"] - LAYERS["drafter"])
    target, drafter = (costs.table[costs.table.model == name] for name in ("target", "drafter"))
    seconds = drafter.seconds + share * (costs.seconds("target", drafter.rows) - drafter.seconds)
    return Costs(pd.concat([target, drafter.assign(seconds=seconds)]))


def execute(profile: str) -> Results:
    """All arms. Raises ValueError for a profile that is not one of PROFILES."""
    setting = choose(profile, PROFILES)
    chapter = CHAPTER[profile]
    chapter.family.prepare()
    seeds = chapter.seeds[: setting.seeds]
    jobs = [
        {"profile": profile, "seed": s, "count": setting.decoded if arm["learns"] else setting.single}
        | {name: arm[name] for name in ("drafter", "policy")}
        for arm in ARMS.values()
        for s in seeds
    ]
    names = [(arm, s) for arm in ARMS for s in seeds]
    found = _named(names, runs.run_all(decode, jobs, show="decoding 1/3: drafters"))
    jobs = [{"profile": profile, "seed": s, "count": setting.followed, "speed_up": setting.speed_up} for s in seeds]
    names = [(f"skipping {setting.speed_up:g}×, SAGE", s) for s in seeds]
    found += _named(names, runs.run_all(skipped, jobs, show="decoding 2/3: layers left out"))
    found += _of_chapter(profile, setting, seeds)
    jobs = [{"profile": profile, "seed": s, "count": setting.single, "threshold": setting.threshold} for s in seeds]
    parts = runs.run_all(switched, jobs, show="decoding 3/3: two models")
    lossy = [
        {"threshold": job["threshold"], "seed": job["seed"]} | row
        for job, part in zip(jobs, parts, strict=True)
        for row in part
    ]
    return Results(pd.DataFrame(found), pd.DataFrame(lossy))


def _of_chapter(profile, setting, seeds) -> list[dict]:
    """SAGE and SpecVLM's tree with the trained drafter, replayed, and the drafters without a model, decoded."""
    most, chapter = setting.followed, CHAPTER[profile]
    job = {"profile": profile, "group": "evaluation", "pair": "vision", "drafter": "model", "ratio": 0.0}
    job |= {"count": chapter.requests, "arms": [asdict(Arm(policy)) for policy in ("sage", "specvlm")]}
    parts = runs.run_all(sage.replayed, [job | {"seed": s} for s in seeds], show="decoding 2/3: SAGE")
    found = []
    for place, arm in enumerate(("SAGE", "SpecVLM's tree")):
        found += _named([(arm, s) for s in seeds], [part[place][:most] for part in parts])
    for arm, drafter in FROM_CHAPTER.items():
        fields = asdict(Arm("sage", drafter=drafter))
        job = {"profile": profile, "group": "evaluation", "count": chapter.decoded, **fields}
        parts = runs.run_all(sage.decode, [job | {"seed": s} for s in seeds], show="decoding 2/3: without a model")
        for s, part in zip(seeds, parts, strict=True):
            own = [row | {"same": row["tokens"] == text} for row, text in zip(part, texts(profile, s), strict=False)]
            found += _named([(arm, s)], [own])
    return found


def _named(names: list[tuple[str, int]], parts: list[list[dict]]) -> list[dict]:
    return [
        row | {"arm": arm, "seed": seed, "request": i}
        for (arm, seed), part in zip(names, parts, strict=True)
        for i, row in enumerate(part)
    ]
