"""The search for each arm's step size and weight of the retain loss: the same for all, on seeds of its own."""

import math

import numpy as np
import pandas as pd
from torch import nn

from palimpsest import runs
from palimpsest.chapters.sau.arms import KEYS, Arm
from palimpsest.chapters.sau.cohort import Cohort, gather
from palimpsest.chapters.sau.course import forget
from palimpsest.chapters.sau.measures import gap_closed
from palimpsest.chapters.sau.profiles import Setting, Values
from palimpsest.training import TrainingDiverged
from palimpsest.unlearning.language.evaluation import probability

Place = tuple[int, int]
"""Steps of √2 from the start: of the step size, and of the weight α."""
MOVES: tuple[Place, ...] = ((1, 0), (-1, 0), (0, 1), (0, -1))


def values_at(start: Values, place: Place) -> Values:
    """Step size and weight."""
    lr, alpha = (first * math.sqrt(2) ** steps for first, steps in zip(start, place, strict=True))
    return float(f"{lr:.4g}"), float(f"{alpha:.4g}")


def trial(profile: str, seed: int, fields: dict, values: Values) -> float | None:
    """The gap closed by the arm of these fields on a tuning seed; None where it diverged."""
    cohort, arm = gather(profile, "tuning", seed), Arm(**fields)
    try:
        model, _, _ = forget(cohort, arm, tuple(values))
    except TrainingDiverged:
        return None
    return closed(cohort, model, arm.start)


def closed(cohort: Cohort, model: nn.Module, recipe: tuple[str, str]) -> float:
    """The gap closed by a model, between the target and the oracle pruned by the recipe."""
    encoded = cohort.encode(cohort.forget)
    ends = (probability(cohort.load(whose, *recipe)[0], encoded) for whose in ("target", "oracle"))
    return gap_closed(probability(model, encoded), *ends)


def trials(setting: Setting) -> pd.DataFrame:
    """Every trial of the search, a row each: the arm (`KEYS`), its place, "lr", "alpha", "seed" and "gap closed" (NaN
    where it diverged).

    An arm's start and its four neighbours at steps of √2 are tried on all tuning seeds; then those of the best place
    that have not been, until none of them is better: what is chosen never lies at an edge. `Setting.moves` may end it
    before.
    """
    arms = (*setting.arms, *setting.rivals, *setting.asides)
    tried: dict[Arm, dict[Place, list[float]]] = {arm: {} for arm in arms}
    rows, moves = [], 0
    wanted = {arm: [(0, 0)] for arm in arms}
    while any(wanted.values()):
        jobs = [(arm, place, seed) for arm in arms for place in wanted[arm] for seed in setting.tuning_seeds]
        found = runs.run_all(
            trial,
            [
                {
                    "profile": setting.name,
                    "seed": seed,
                    "fields": arm.fields,
                    "values": values_at(setting.start(arm), place),
                }
                for arm, place, seed in jobs
            ],
            show=f"SAU: search, round {moves + 1}",
        )
        for (arm, place, seed), gap in zip(jobs, found, strict=True):
            lr, alpha = values_at(setting.start(arm), place)
            steps = {"lr steps": place[0], "alpha steps": place[1]}
            rows.append(arm.row | steps | {"lr": lr, "alpha": alpha, "seed": seed, "gap closed": gap})
            tried[arm].setdefault(place, []).append(-math.inf if gap is None else gap)
        wanted = {arm: [] if moves == setting.moves else _around(tried[arm]) for arm in arms}
        moves += 1
    return pd.DataFrame(rows)


def _around(tried: dict[Place, list[float]]) -> list[Place]:
    """The neighbours of the best place so far that were not tried."""
    best = max(tried, key=lambda place: sum(tried[place]))
    around = [(best[0] + a, best[1] + b) for a, b in MOVES]
    return [place for place in around if place not in tried]


def chosen(found: pd.DataFrame) -> dict[tuple[str, ...], Values]:
    """Arm, as `KEYS` -> the values with the largest mean of gap closed; ties to the smaller ones; none that ever
    diverged."""
    by = found.groupby([*KEYS, "lr", "alpha"], sort=True)["gap closed"].agg(lambda gap: gap.mean(skipna=False))
    best = by.dropna().groupby(level=list(KEYS)).idxmax()
    return {place[: len(KEYS)]: (float(place[-2]), float(place[-1])) for place in best}


def at_best(found: pd.DataFrame) -> dict[tuple[str, ...], pd.Series]:
    """Arm, as `KEYS` -> the gap closed on each seed of the search at the values chosen for it."""
    names = (*KEYS, "lr", "alpha")
    places = {key: dict(zip(names, (*key, *values), strict=True)) for key, values in chosen(found).items()}
    return {key: alike(found, **place)["gap closed"] for key, place in places.items()}


def alike(found: pd.DataFrame, **columns: str | float) -> pd.DataFrame:
    """The trials of which these columns have these values."""
    return found[np.logical_and.reduce([found[name] == value for name, value in columns.items()])]


def held_out(found: pd.DataFrame, loss: str, kind: str, pruner: str, sparsity: str) -> pd.Series:
    """The gap closed on each seed of the search at the values that are best on its other seeds: here, and nowhere in
    the replications, the choice itself varies. Places where a run diverged are left out."""
    part = alike(found, loss=loss, kind=kind, pruner=pruner, sparsity=sparsity)
    table = part.pivot_table("gap closed", ["lr", "alpha"], "seed", dropna=False).dropna()
    chosen_by = {seed: table.drop(columns=seed).mean(axis=1).idxmax() for seed in table}
    return pd.Series({seed: table.loc[place, seed] for seed, place in chosen_by.items()})


def elected(setting: Setting, found: pd.DataFrame) -> tuple[Arm, ...]:
    """Of the rivals those whose loss did best for their letter, recipe and importance, the arms' loss included."""
    levels, best = {key: gaps.mean() for key, gaps in at_best(found).items()}, {}
    for arm in (*setting.arms, *setting.rivals):
        where = (arm.kind, *arm.start, arm.sparsity)
        if where not in best or levels[arm.key] > levels[best[where].key]:
            best[where] = arm
    return tuple(arm for arm in setting.rivals if arm in best.values())
