"""The SAU experiment: which updates forget best in a sparse language model, at one loss of utility for all.

Jobs, each cached by itself: `make` trains a model, `trial` unlearns at one step size of the grid on a tuning seed,
`arm` unlearns at the step size chosen on one of the verdict's seeds, `reference` measures a target and its oracle.
The profile decides which models these are, how large, and which arms (`profiles`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean

import pandas as pd
from torch import Tensor, nn

from palimpsest import pruning, runs
from palimpsest.chapters.sau.arms import DENSE, KEYS, Arm
from palimpsest.chapters.sau.cohort import Cohort, gather, judge_of, to_make
from palimpsest.chapters.sau.measures import BAR, compared
from palimpsest.chapters.sau.probes import train_again
from palimpsest.chapters.sau.profiles import PROFILES
from palimpsest.chapters.sau.weights import put, put_between, state
from palimpsest.chapters.shared.profiles import choose
from palimpsest.pruning import Masks
from palimpsest.training import TrainingDiverged, seeds
from palimpsest.unlearning.language import METHODS, unlearn
from palimpsest.unlearning.language.evaluation import probability

BISECTIONS = 4
EXAMINED = "NPO"
"""The loss whose models are examined."""


def forget(cohort: Cohort, arm: Arm, lr: float) -> tuple[nn.Module, Masks | None, dict]:
    """Unlearn to the point where the validation retention falls below 95 % of the pruned target's.

    Retention is looked at after each epoch, and the first epoch below the bar is the last; arm B is looked at as
    pruned again. The run is taken on the straight line between the weights before and after that epoch, at the bar
    (`BISECTIONS` halvings): every arm is compared at the same loss of utility. A run that never falls below is taken
    at its end. Returns the model, the masks it keeps, and the columns of its course, with "factor": the mean over
    steps of D's median 1 + λ or of F's factor.
    """
    setting, judge = cohort.setting, judge_of(cohort, *arm.start)
    model, masks = cohort.load("target", *arm.start)
    moving = cohort.moving(model)
    states, looks = [state(moving)], [judge.look(model, 1.0)]

    def finished(see: Callable):
        """What is seen of the model as it would be handed over now."""
        if arm.letter != "B":
            return see()
        before = state(moving)
        cohort.prune(model, "target", *arm.start)
        seen = see()
        put(moving, before)
        return seen

    def after_epoch(_: int) -> bool:
        states.append(state(moving))
        looks.append(finished(lambda: judge.look(model, judge.kept(model))))
        return looks[-1]["kept"] >= BAR

    done = unlearn(
        model,
        cohort.encode(cohort.forget),
        cohort.encode(cohort.retain),
        METHODS[arm.loss],
        lr=lr,
        update=arm.update(masks, model, cohort.seed, setting.top),
        epochs=setting.unlearn_epochs,
        batch_size=setting.unlearn_batch,
        seed=seeds.derived(cohort.seed, "unlearning"),
        after_epoch=after_epoch,
    )
    taken = 1.0
    if looks[-1]["kept"] < BAR:
        taken = stop_at_bar(moving, *states[-2:], lambda: finished(lambda: judge.kept(model)))
    if arm.letter == "B":
        masks = cohort.prune(model, "target", *arm.start)
    scales = [row["scale"] for row in done.log if "scale" in row]
    return model, masks, judge.course(looks, taken) | {"factor": fmean(scales) if scales else None}


def stop_at_bar(
    moving: dict[str, Tensor], low: dict[str, Tensor], high: dict[str, Tensor], kept: Callable[[], float]
) -> float:
    """Put `moving` on the straight line from the state `low` to `high`, as far along as `kept` stays at the bar by
    `BISECTIONS` halvings; returns the share of the way."""
    inside, outside = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        put_between(moving, low, high, middle)
        inside, outside = (middle, outside) if kept() >= BAR else (inside, middle)
    put_between(moving, low, high, inside)
    return inside


def make(profile: str, group: str, seed: int, whose: str, pruner: str, sparsity: str) -> None:
    """Train and keep a model, unless it is kept already."""
    gather(profile, group, seed).make(whose, pruner, sparsity)


def trial(profile: str, seed: int, fields: dict, lr: float) -> float | None:
    """The tuning forget set's probability after unlearning by the arm of these fields at one step size; None where it
    diverged."""
    cohort = gather(profile, "tuning", seed)
    try:
        model, _, _ = forget(cohort, Arm(**fields), lr)
    except TrainingDiverged:
        return None
    return probability(model, cohort.encode(cohort.forget))


def reference(profile: str, seed: int, pruner: str, sparsity: str) -> list[dict]:
    """Rows of the target and of the oracle, pruned alike, and of what else a cohort refers to."""
    cohort, rows, masks = gather(profile, "verdict", seed), [], {}
    judge, setting = judge_of(cohort, pruner, sparsity), cohort.setting
    for whose in cohort.references(pruner, sparsity):
        model, masks[whose] = cohort.load(whose, pruner, sparsity)
        row = {"loss": "none", "kind": whose, "pruner": pruner, "sparsity": sparsity, "seed": seed}
        rows.append(row | judge.measure(model, whose))
        if (pruner, sparsity) in setting.examined_at:
            rows[-1] |= judge.examine(model, masks[whose])
    if setting.overlap and (pruner, sparsity) != DENSE:
        rows[-1]["mask overlap"] = masks["target"].overlap(masks["oracle"])
    return rows


def arm(profile: str, seed: int, fields: dict, lr: float) -> list[dict]:
    """The row of one arm; after arm A more for each recipe by which the forgetful dense model is then pruned."""
    cohort, this = gather(profile, "verdict", seed), Arm(**fields)
    setting, named = cohort.setting, {"seed": seed, "lr": lr}
    model, masks, course = forget(cohort, this, lr)
    rows = [this.row | named | course | _measured(cohort, this, model, masks, zeros=True)]
    for where in setting.recipes if this.letter == "A" and this.loss in setting.pruned_after else ():
        later = replace(this, pruner=where[0], sparsity=where[1])
        for kind, after, kept in cohort.pruned_after(model, *where):
            found = _measured(cohort, later, after, kept, zeros=setting.zeros_after)
            rows.append(later.row | {"kind": kind} | named | found)
    return rows


def _measured(cohort: Cohort, arm: Arm, model: nn.Module, masks: Masks | None, *, zeros: bool) -> dict:
    """The columns of a model at the end of an arm; `zeros` counts "non-zero" pruned weights."""
    judge = judge_of(cohort, *arm.start)
    found = judge.measure(model)
    if zeros and masks is not None:
        named = dict(model.named_parameters())
        found["non-zero"] = sum(int((named[n].cpu() != 0)[~kept.cpu()].sum()) for n, kept in masks.kept.items())
        found["valid 2:4"] = pruning.valid_n_m(masks, 2, 4) if arm.sparsity == "2:4" else None
    if arm.loss == EXAMINED and (arm.pruner, arm.sparsity) in cohort.setting.examined_at:
        found |= judge.examine(model, masks)
    return found


@dataclass(frozen=True, eq=False)
class Results:
    """`tuning`: one row per arm and step size. `rows`: one row per model, references included; "gap closed" is
    (m_target − m) / (m_target − m_oracle) with m the forget set's mean answer probability, all three pruned alike.
    `values`: the step sizes that tuning chose. `again`: the first seed's dense target trained once more, as
    `probes.train_again` describes it; None where the setting has no nudge."""

    tuning: pd.DataFrame
    rows: pd.DataFrame
    values: dict[tuple[str, ...], float]
    again: dict | None = None

    @property
    def tuned(self) -> list[dict]:
        """The step sizes chosen, as rows."""
        return [{**dict(zip(KEYS, key, strict=True)), "lr": lr} for key, lr in self.values.items()]

    def column(self, name: str, kind: str, pruner: str = "wanda", sparsity: str = "0.5", loss: str = "NPO"):
        """One column of an arm (or of kind "target" or "oracle") by seed. ValueError for an arm that was not run."""
        loss = "none" if kind in ("target", "oracle") else loss
        rows = self.rows.query("loss == @loss and kind == @kind and pruner == @pruner and sparsity == @sparsity")
        if rows.empty:
            raise ValueError(f"no arm ({loss}, {kind}, {pruner}, {sparsity}) was run")
        return rows.set_index("seed")[name].sort_index()


def execute(profile: str) -> Results:
    """Train, prune, tune, run. Every job is cached, so it can be stopped and goes on where it was.

    Profiles of SmolLM2 need TOFU (`data.tofu`) and the folder of SmolLM2-135M-Instruct that PALIMPSEST_SMOLLM2 names.
    Raises ValueError without them, and for an unknown profile.
    """
    setting, common = choose(profile, PROFILES), {"profile": profile}
    first = [{"what": "make", **common, **model} for model in to_make(setting)]
    if setting.nudge is not None:
        first.append({"what": "again", **common, "seed": setting.seeds[0], "nudge": setting.nudge})
    tuned = dict.fromkeys(setting.tuned_as(arm) for arm in setting.arms)
    grid = [(arm, lr, seed) for arm in tuned for lr in setting.grid for seed in setting.tuning_seeds]
    trials = [{"what": "trial", **common, "seed": seed, "fields": vars(arm), "lr": lr} for arm, lr, seed in grid]
    # In one queue, so that no core waits for the last model.
    seen = runs.run_all(job, [*first, *trials], show="SAU 1/2: training, tuning")
    tried = seen[len(first) :]
    tuning = pd.DataFrame(
        [
            {**common, "seed": seed, **arm.row, "lr": lr, "forget": p}
            for (arm, lr, seed), p in zip(grid, tried, strict=True)
        ]
    )
    values = chosen(tuning)
    jobs = [
        {"what": "reference", **common, "seed": seed, "pruner": pruner, "sparsity": sparsity}
        for pruner, sparsity in (DENSE, *setting.recipes)
        for seed in setting.seeds
    ]
    jobs += [
        {"what": "arm", **common, "seed": seed, "fields": vars(arm), "lr": values[setting.tuned_as(arm).key]}
        for arm in setting.arms
        for seed in setting.seeds
    ]
    rows = pd.DataFrame(chain.from_iterable(runs.run_all(job, jobs, show="SAU 2/2: references and arms")))
    again = None if setting.nudge is None else seen[len(first) - 1]
    return Results(tuning, compared(rows), values, again)


def chosen(tuning: pd.DataFrame) -> dict[tuple[str, ...], float]:
    """(loss, kind, pruner, sparsity) -> the step size that forgets most at the common loss of utility; ties to the
    smaller."""
    names = list(KEYS)
    whole = tuning.groupby([*names, "lr"]).forget.agg(lambda p: p.mean(skipna=False)).dropna()
    return {key: float(p.droplevel(names).sort_index().idxmin()) for key, p in whole.groupby(level=names)}


def job(what: str, **config) -> list[dict] | dict | float | None:
    """One job of the experiment by its name."""
    jobs = {"make": make, "again": train_again, "trial": trial, "reference": reference, "arm": arm}
    return jobs[what](**config)
