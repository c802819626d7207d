"""The search for the settings of rivals, on the tuning seeds of the SAU chapter and by its measure: the gap closed at
the bar.

Chapter 1 moves from place to place until no neighbour is better. Here every rival is tried at the same number of
places of a grid that was laid after a look at one tuning seed, and the table says where the best lies at an edge.
"""

import json
from itertools import product

import pandas as pd

from palimpsest import runs
from palimpsest.chapters.neighbours.language_arms import forgetful
from palimpsest.chapters.neighbours.profiles import SHARP, Language, Sharp
from palimpsest.chapters.sau.arms import DENSE
from palimpsest.chapters.sau.cohort import gather
from palimpsest.chapters.sau.course import forget
from palimpsest.chapters.sau.profiles import MAIN, Values
from palimpsest.chapters.sau.search import closed
from palimpsest.data import neighbours
from palimpsest.training import TrainingDiverged


def _crossed(**values: tuple[float, ...]) -> list[dict[str, float]]:
    return [dict(zip(values, place, strict=True)) for place in product(*values.values())]


GRIDS: dict[str, list[dict[str, float]]] = {
    "ULD": _crossed(weight=(0.8, 1.0, 1.25), alpha=(1.5, 3.0, 6.0), lr=(0.03,)),
    "ROCR": _crossed(null=(3e-3, 3e-2, 3e-1), ridge=(1e-3, 1e-1, 1.0)),
    "ECO": _crossed(dims=(8, 16, 48), step=(4.0, 16.0, 64.0)),
    "Neuron Adjust": _crossed(part=(0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.5, 1.0)),
    "Key Space Detection": _crossed(scale=(0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)),
    SHARP: _crossed(rho=(0.01, 0.03, 0.1), lr=(5.657e-3, 8e-3, 1.131e-2), alpha=(0.9899,)),
}
"""Rival -> the settings it is tried with, nine each. SAM has NPO's weight, and its step size and one of √2 to each
side."""


def trial(profile: str, seed: int, rival: str, settings: dict[str, float]) -> float | None:
    """The gap closed on a tuning seed; None where the rival diverged."""
    cohort = gather(profile, "tuning", seed)
    try:
        if rival == SHARP:
            arm, values = sharp(settings)
            model, _, _ = forget(cohort, arm, values)
        else:
            model, _ = forgetful(cohort, rival, settings)
    except TrainingDiverged:
        return None
    return closed(cohort, model, DENSE)


def sharp(settings: dict[str, float]) -> tuple[Sharp, Values]:
    """The arm of these settings, with its step size and weight."""
    return Sharp(MAIN, "A", rho=settings["rho"]), (settings["lr"], settings["alpha"])


def trials(setting: Language) -> pd.DataFrame:
    """Every trial, a row each, as `data.neighbours.language_search` gives them."""
    wanted = [
        {"rival": rival, "settings": place, "seed": seed}
        for rival in (*setting.rivals, SHARP)
        for place in GRIDS[rival][: setting.places]
        for seed in setting.tuning_seeds
    ]
    jobs = [{"profile": setting.name, **which} for which in wanted]
    found = runs.run_all(trial, jobs, show="neighbours: search")
    return pd.DataFrame([which | {"gap closed": gap} for which, gap in zip(wanted, found, strict=True)])


def settings_of(setting: Language) -> dict[str, dict[str, float]]:
    """What each rival is run with: what the shipped trials choose, or the first place of its grid."""
    if setting.shipped:
        return chosen(neighbours.language_search())
    return {rival: GRIDS[rival][0] for rival in (*setting.rivals, SHARP)}


def chosen(found: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Rival -> the settings with the largest mean of gap closed; none that ever diverged."""
    best = {}
    for rival, part in found.groupby("rival", sort=False):
        means = part.groupby(part.settings.map(json.dumps))["gap closed"].agg(lambda gap: gap.mean(skipna=False))
        best[rival] = json.loads(means.dropna().idxmax())
    return best
