"""The chapter's experiment in language: rivals beside NPO, GradDiff and SAU, and the stress tests on all of them.

Jobs, each cached by itself: `reference` measures the original (the target) and Retrain (the oracle) of one recipe of
pruning, `arm` and `rival` unlearn and measure, `ablated` takes value vectors out of the original.
"""

import pandas as pd
from torch import nn

from palimpsest import runs
from palimpsest.chapters.neighbours.language_arms import forgetful, name_of
from palimpsest.chapters.neighbours.language_measures import stressed
from palimpsest.chapters.neighbours.language_probes import ablated
from palimpsest.chapters.neighbours.language_results import ORIGINAL, RETRAIN, Results, compared
from palimpsest.chapters.neighbours.language_search import settings_of, sharp
from palimpsest.chapters.neighbours.profiles import LANGUAGE, SHARP, Language, Sharp
from palimpsest.chapters.sau.arms import DENSE, Arm
from palimpsest.chapters.sau.cohort import gather, judge_of
from palimpsest.chapters.sau.course import forget
from palimpsest.chapters.sau.profiles import JUDGED_AT, PROFILES, Values
from palimpsest.chapters.sau.search import chosen
from palimpsest.chapters.sau.small import Cohort
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data import neighbours, sau_models
from palimpsest.pruning import Masks


def reference(profile: str, seed: int, pruner: str, sparsity: str) -> list[dict]:
    """The rows of the original and of Retrain."""
    cohort = gather(profile, "replication", seed)
    return [
        _row(cohort, whose, (pruner, sparsity), *cohort.load(whose, pruner, sparsity), whose=whose)
        for whose in (ORIGINAL, RETRAIN)
    ]


def arm(profile: str, seed: int, fields: dict, values: Values) -> list[dict]:
    """The row of an arm."""
    cohort, this = gather(profile, "replication", seed), (Sharp if "rho" in fields else Arm)(**fields)
    model, masks, course = forget(cohort, this, tuple(values))
    return [_row(cohort, name_of(this), this.start, model, masks) | {"taken": course["taken"]}]


def rival(profile: str, seed: int, name: str, settings: dict[str, float]) -> list[dict]:
    """The row of a rival."""
    cohort = gather(profile, "replication", seed)
    model, share = forgetful(cohort, name, settings)
    return [_row(cohort, name, DENSE, model, None) | {"taken": share}]


def _row(
    cohort: Cohort, name: str, recipe: tuple[str, str], model: nn.Module, masks: Masks | None, whose: str = ORIGINAL
) -> dict:
    found = judge_of(cohort, *recipe).measure(model, whose) | stressed(cohort, model, masks, recipe)
    return {"seed": cohort.seed, "pruner": recipe[0], "sparsity": recipe[1], "arm": name} | found


def execute(profile: str) -> Results:
    """Unlearn, measure, compare. Every job is cached. Raises ValueError for an unknown profile."""
    setting = choose(profile, LANGUAGE)
    settings, values = settings_of(setting), values_of(setting)
    jobs = [{"what": "arm", "fields": arm.fields, "values": values[arm.key]} for arm in setting.arms]
    sam, own = sharp(settings[SHARP])
    jobs.append({"what": "arm", "fields": sam.fields, "values": own})
    jobs += [{"what": "rival", "name": name, "settings": settings[name]} for name in setting.rivals]
    for pruner, sparsity in (DENSE, JUDGED_AT):
        jobs.append({"what": "reference", "pruner": pruner, "sparsity": sparsity})
    jobs.append({"what": "ablated", "vectors": setting.ablated})
    whole = [{"profile": profile, "seed": seed, **job} for seed in setting.seeds for job in jobs]
    found = runs.run_all(job, whole, show="neighbours: language")
    parts = {"ablated": [], "rows": []}
    for one, rows in zip(whole, found, strict=True):
        parts["ablated" if one["what"] == "ablated" else "rows"] += rows
    tables = {name: pd.DataFrame(rows) for name, rows in parts.items()}
    search = neighbours.language_search() if setting.shipped else None
    return Results(compared(tables["rows"]), tables["ablated"], search)


def values_of(setting: Language) -> dict[tuple[str, ...], Values]:
    """The SAU chapter's values of each arm: those that its search chose, or those that it starts from."""
    if setting.shipped:
        return chosen(sau_models.search())
    return {arm.key: PROFILES[setting.name].start(arm) for arm in setting.arms}


def job(what: str, **config) -> list[dict]:
    """One job of the experiment by its name."""
    jobs = {"reference": reference, "arm": arm, "rival": rival, "ablated": ablated}
    return jobs[what](**config)
