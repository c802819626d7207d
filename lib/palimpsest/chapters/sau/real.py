"""SAU on a real model, profile `full` and its slice for one core: the arms of `sau` on SmolLM2-135M and TOFU.

Arms, losses, updates and measures are those of `sau`. What differs: the models (`sau_full_data`); a run ends with the
first epoch after which the validation retention of one of three sets is below the bar, and is taken on the straight
line between the last two epochs; where only the last layers train, "all weights" of arms A and B are all of these
layers.
"""

from dataclasses import replace
from itertools import chain
from statistics import fmean

import pandas as pd
from torch import nn

from palimpsest import pruning, runs
from palimpsest.chapters.sau.cohort import DENSE
from palimpsest.chapters.sau.experiment import Arm, Results, chosen, recipe, stop_at_bar
from palimpsest.chapters.sau.measures import BAR, compared, state
from palimpsest.chapters.sau.real_cohort import Cohort, put
from palimpsest.chapters.sau.real_measures import TEST, VALIDATION, examine, kept, retention, verdict
from palimpsest.chapters.sau.real_profiles import PROFILES
from palimpsest.chapters.shared.profiles import choose
from palimpsest.training import TrainingDiverged
from palimpsest.unlearning.language import METHODS, unlearn
from palimpsest.unlearning.language.evaluation import probability

KEYS = ("loss", "kind", "pruner", "sparsity")


def arms(profile: str) -> list[Arm]:
    """What is compared: A for every loss, the pruned arms for every loss and recipe."""
    s = choose(profile, PROFILES)
    return [
        a
        for loss in s.losses
        for a in (Arm(loss, "A"), *(Arm(loss, kind, *where) for where in s.recipes for kind in s.kinds))
    ]


def tuned_as(profile: str, arm: Arm) -> Arm:
    """The arm whose step size this one takes."""
    pruner, sparsity = choose(profile, PROFILES).tuned_at
    return arm if arm.kind == "A" else replace(arm, pruner=pruner, sparsity=sparsity)


def forget(cohort: Cohort, arm: Arm, lr: float) -> tuple[nn.Module, pruning.Masks | None, dict]:
    """Unlearn until the validation retention of a set falls below the bar of `sau_measures` (95 % of the start's).

    Returns the model on the bar, or at its end where it never fell below; the masks it keeps; and {"course": the
    share kept of the worst set's retention at the start and after each epoch, "epochs": where on the course the model
    was taken, "factor": the mean over steps of D's median 1 + λ or of F's factor}. Arm B is looked at as pruned
    again.
    """
    setting = cohort.setting
    model, masks = cohort.load("target", *recipe(arm))
    start, moving = retention(cohort, model, VALIDATION), cohort.moving(model)
    states, course = [state(moving)], [1.0]

    def look() -> float:
        before = state(moving)
        if arm.kind == "B":
            cohort.prune(model, arm.pruner, arm.sparsity)
        left = kept(retention(cohort, model, VALIDATION), start)
        put(moving, before)
        return left

    def after_epoch(_: int) -> bool:
        states.append(state(moving))
        course.append(look())
        return course[-1] >= BAR

    done = unlearn(
        model,
        cohort.encode(cohort.forget),
        cohort.encode(cohort.retain),
        METHODS[arm.loss],
        lr=lr,
        update=replace(arm.update(masks, model, cohort.seed), top=setting.top),
        epochs=setting.unlearn_epochs,
        batch_size=setting.unlearn_batch,
        seed=cohort.seed,
        after_epoch=after_epoch,
    )
    taken = stop_at_bar(moving, states, look) if course[-1] < BAR else 1.0
    if arm.kind == "B":
        masks = cohort.prune(model, arm.pruner, arm.sparsity)
    scales = [row["scale"] for row in done.log if "scale" in row]
    seen = {"course": course, "epochs": len(course) - 2 + taken, "factor": fmean(scales) if scales else None}
    return model, masks, seen


def trial(profile: str, seed: int, loss: str, kind: str, pruner: str, sparsity: str, lr: float) -> float | None:
    """The tuning authors' probability after unlearning them at one step size; None where it diverged."""
    cohort = Cohort(profile, "tuning", seed)
    try:
        model, _, _ = forget(cohort, Arm(loss, kind, pruner, sparsity), lr)
    except TrainingDiverged:
        return None
    return probability(model, cohort.encode(cohort.forget))


def reference(profile: str, seed: int, pruner: str, sparsity: str) -> list[dict]:
    """Rows of the target and of the oracle, pruned and recovered alike; of the published model too, where dense."""
    cohort = Cohort(profile, "verdict", seed)
    start, rows = retention(cohort, cohort.load("target", pruner, sparsity)[0], TEST), []
    for whose in ("target", "oracle", *(["published"] if (pruner, sparsity) == DENSE else [])):
        model, _ = cohort.load(None if whose == "published" else whose, pruner, sparsity)
        name = dict(zip(KEYS, ("none", whose, pruner, sparsity), strict=True))
        rows.append({**name, "seed": seed, **verdict(cohort, model, start)})
        if (pruner, sparsity) == cohort.setting.tuned_at:
            rows[-1] |= examine(cohort, model)
    return rows


def arm(profile: str, seed: int, loss: str, kind: str, pruner: str, sparsity: str, lr: float) -> list[dict]:
    """The row of one arm; after arm A one more for each recipe by which the forgetful dense model is then pruned, and
    recovered on what the oracle has learnt: the forget set is gone by then. Kind "A bare" is before recovery."""
    cohort, this = Cohort(profile, "verdict", seed), Arm(loss, kind, pruner, sparsity)
    setting = cohort.setting
    model, masks, seen = forget(cohort, this, lr)

    def row(model: nn.Module, masks: pruning.Masks | None, where: tuple[str, str]) -> dict:
        start = retention(cohort, cohort.load("target", *where)[0], TEST)
        name = dict(zip(KEYS, (loss, kind, *where), strict=True))
        found = {**name, "seed": seed, "lr": lr, **verdict(cohort, model, start)}
        if masks is not None:
            named = dict(model.named_parameters())
            found["non-zero"] = sum(int((named[n].cpu() != 0)[~k.cpu()].sum()) for n, k in masks.kept.items())
            found["valid 2:4"] = pruning.valid_n_m(masks, 2, 4) if where[1] == "2:4" else None
        if loss == "NPO" and where == setting.tuned_at:
            found |= examine(cohort, model)
        return found

    rows = [row(model, masks, (pruner, sparsity)) | seen]
    for where in setting.recipes if kind == "A" else ():
        after, _ = cohort.load("target", *where)
        put(cohort.moving(after), state(cohort.moving(model)))
        left = cohort.prune(after, *where)
        if where in setting.recovery:
            rows.append(row(after, left, where) | {"kind": "A bare"})
        cohort.recover(after, left, "oracle", where)
        rows.append(row(after, left, where))
    return rows


def _prepare(profile: str, seed: int, whose: str, pruner: str, sparsity: str) -> None:
    """Train, prune and keep a model."""
    Cohort(profile, "verdict", seed).load(whose, pruner, sparsity)


def execute(profile: str) -> Results:
    """Train, prune, tune, run. Every step is cached, so it can be stopped and goes on where it was.

    Needs TOFU (`data.tofu`) and the folder of SmolLM2-135M-Instruct that PALIMPSEST_SMOLLM2 names. Raises ValueError
    without them, and for a profile that is not one of `sau_full_profiles.PROFILES`.
    """
    setting = choose(profile, PROFILES)
    common = {"profile": profile}
    where = [{"pruner": p, "sparsity": s} for p, s in (DENSE, *setting.recipes)]
    models = [
        {**common, "seed": seed, "whose": whose, **w}
        for w in where
        for seed in setting.seeds
        for whose in ("target", "oracle")
    ]
    runs.run_all(_prepare, models, show="SAU full 1/4: models")
    tuned = dict.fromkeys(tuned_as(profile, a) for a in arms(profile))
    grid = [
        {**common, "seed": seed, **vars(a), "lr": lr} for a in tuned for lr in setting.grid for seed in setting.seeds
    ]
    seen = runs.run_all(trial, grid, show="SAU full 2/4: tuning")
    tuning = pd.DataFrame([{**job, "forget": value} for job, value in zip(grid, seen, strict=True)])
    values = chosen(tuning)
    bare = [{**common, "seed": seed, **w} for w in where for seed in setting.seeds]
    jobs = [
        {**common, "seed": seed, **vars(a), "lr": values[tuned_as(profile, a)]}
        for a in arms(profile)
        for seed in setting.seeds
    ]
    rows = chain(
        runs.run_all(reference, bare, show="SAU full 3/4: references"),
        runs.run_all(arm, jobs, show="SAU full 4/4: arms"),
    )
    return Results(tuning, compared(pd.DataFrame(chain.from_iterable(rows))), values)
