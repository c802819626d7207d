"""The SAU experiment: which updates forget best in a sparse language model, at one loss of utility for all.

Three kinds of step, each cached by itself: `trial` unlearns at one step size of the grid on a tuning seed, `arm`
unlearns at the step size chosen on one of the verdict's seeds, `reference` measures a target and its oracle. Their
dense models are shipped, or trained first.

Arms, in the letters of `papers/sau.md`'s protocol: A dense unlearning, then pruning (U→P); B pruning, then unlearning
of all weights, then pruning again; C pruning, then unlearning of surviving weights; D the same with SAU's
redistribution; E a dense model of which a random share of the weights may move; F arm C with every step as long as
D's would have been.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

import pandas as pd
from torch import Tensor, nn

from palimpsest import pruning, runs
from palimpsest.chapters.sau import measures
from palimpsest.chapters.sau.cohort import DENSE, Cohort, models, prepare, prune
from palimpsest.chapters.sau.probes import train_again
from palimpsest.training import TrainingDiverged
from palimpsest.unlearning.language import METHODS, Update, unlearn

GRID = (4e-4, 8e-4, 1.6e-3, 3.2e-3)
"""Peak step sizes that tuning compares, the same for every arm."""
SPARSITIES = ("0.5", "0.7")
"""Where all arms meet. A, C and D are run at 30 % and 2:4 too."""
TUNED_AT = ("wanda", "0.5")
BISECTIONS = 4
NUDGE = 1e-6
"""By what share of their size the starting weights of the target that is trained again are off."""


@dataclass(frozen=True)
class Arm:
    """A loss, an arm by its letter (with the importance for D), and the recipe of pruning; for E the pruner is
    "none" and the sparsity the share that may not move."""

    loss: str
    kind: str
    pruner: str = DENSE[0]
    sparsity: str = DENSE[1]

    def update(self, masks: pruning.Masks | None, model: nn.Module, seed: int) -> Update:
        """What may move, and how far."""
        if self.kind == "E":
            return Update(pruning.random_masks(model, 1 - float(self.sparsity), seed))
        if self.kind.startswith("D"):
            return Update(masks, scaling="redistribute", importance=self.kind.partition(" ")[2])
        if self.kind in ("A", "B"):
            return Update()
        return Update(masks, scaling="boost" if self.kind == "F" else "none")

    @property
    def tuned_as(self) -> "Arm":
        """The arm whose step size this one takes: pruned arms are tuned at one recipe, SAU with one importance."""
        if self.kind.startswith("D"):
            return Arm(self.loss, "D wanda", *TUNED_AT)
        if self.pruner != DENSE[0]:
            return Arm(self.loss, self.kind, *TUNED_AT)
        return Arm(self.loss, self.kind, DENSE[0], "0.5" if self.kind == "E" else DENSE[1])


def arms(profile: str) -> list[Arm]:
    """What the chapter compares."""
    if profile == "smoke":
        return [Arm("NPO", "A"), Arm("NPO", "E", sparsity="0.5")] + [
            Arm("NPO", kind, *TUNED_AT) for kind in ("B", "C", "D wanda", "F")
        ]
    found = [Arm("NPO", "A"), *(Arm("NPO", "E", sparsity=s) for s in SPARSITIES)]
    found += [Arm("NPO", kind, "wanda", s) for kind in ("B", "C", "D wanda", "F") for s in SPARSITIES]
    found += [Arm("NPO", kind, "wanda", s) for kind in ("C", "D wanda") for s in ("0.3", "2:4")]
    found += [Arm("NPO", kind, "sparsegpt", "0.5") for kind in ("C", "D wanda")]
    found += [Arm("NPO", kind, *TUNED_AT) for kind in ("D saliency", "D fisher")]
    return [*found, Arm("GradDiff", "A"), *(Arm("GradDiff", kind, *TUNED_AT) for kind in ("C", "D wanda"))]


def recipe(arm: Arm) -> tuple[str, str]:
    """(pruner, sparsity) of the models that the arm starts from and is compared with."""
    return DENSE if arm.kind == "E" else (arm.pruner, arm.sparsity)


def forget(cohort: Cohort, arm: Arm, lr: float) -> tuple[nn.Module, pruning.Masks | None, measures.Judge, dict]:
    """Unlearn to the point where the validation retention falls below 95 % of the pruned target's.

    Retention is looked at after each epoch, and the first epoch below the bar is the last. The run is taken on the
    straight line between the weights before and after that epoch, at the bar (`BISECTIONS` halvings): every arm is
    compared at the same loss of utility. A run that never falls below is taken at its end. Returns the model, the
    masks it keeps, who judged it, and {"course": what was seen at the start and after each epoch, "factor": the mean
    over steps of D's median 1 + λ or of F's factor}.
    """
    model, masks = cohort.load("target", *recipe(arm))
    judge = measures.Judge(cohort, *recipe(arm))

    def finished(model: nn.Module) -> nn.Module:
        if arm.kind != "B":
            return model
        again = copy.deepcopy(model)
        prune(again, cohort, "target", arm.pruner, arm.sparsity)
        return again

    moving = dict(model.named_parameters())
    states, course = [measures.state(moving)], [judge.look(model)]

    def after_epoch(_: int) -> bool:
        states.append(measures.state(moving))
        course.append(judge.look(finished(model)))
        return course[-1]["kept"] >= measures.BAR

    setting = cohort.setting
    done = unlearn(
        model,
        judge.forget,
        cohort.encode(cohort.retain),
        METHODS[arm.loss],
        lr=lr,
        update=arm.update(masks, model, cohort.seed),
        epochs=setting.unlearn_epochs,
        batch_size=setting.unlearn_batch,
        seed=cohort.seed,
        after_epoch=after_epoch,
    )
    if course[-1]["kept"] < measures.BAR:
        stop_at_bar(moving, states, lambda: judge.kept(finished(model)))
    if arm.kind == "B":
        masks = prune(model, cohort, "target", arm.pruner, arm.sparsity)
    scales = [row["scale"] for row in done.log if "scale" in row]
    return model, masks, judge, {"course": course, "factor": fmean(scales) if scales else None}


def stop_at_bar(moving: dict[str, Tensor], states: list[dict[str, Tensor]], kept: Callable[[], float]) -> float:
    """Put `moving` on the straight line between the last two of `states`, as far along as `kept` stays at the bar by
    `BISECTIONS` halvings; returns the share of the way."""
    inside, outside = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        _between(moving, states, middle)
        inside, outside = (middle, outside) if kept() >= measures.BAR else (inside, middle)
    _between(moving, states, inside)
    return inside


def _between(moving: dict[str, Tensor], states: list[dict[str, Tensor]], share: float) -> None:
    """θ = the last but one state + share of the way to the last; where both are +0.0, so is θ."""
    low, high = states[-2:]
    for name, parameter in moving.items():
        parameter.data.copy_(low[name].lerp(high[name], share))


def trial(profile: str, seed: int, loss: str, kind: str, pruner: str, sparsity: str, lr: float) -> float | None:
    """The forget set's probability after unlearning at one step size; None where it diverged."""
    cohort = Cohort(profile, "tuning", seed)
    try:
        model, _, judge, _ = forget(cohort, Arm(loss, kind, pruner, sparsity), lr)
    except TrainingDiverged:
        return None
    return measures.probability(model, judge.forget)


def reference(profile: str, seed: int, pruner: str, sparsity: str) -> list[dict]:
    """Rows of the target and of the oracle, pruned alike."""
    cohort, rows = Cohort(profile, "verdict", seed), []
    for whose in ("target", "oracle"):
        model, masks = cohort.load(whose, pruner, sparsity)
        row = {"loss": "none", "kind": whose, "pruner": pruner, "sparsity": sparsity, "seed": seed}
        rows.append(row | measures.Judge(cohort, pruner, sparsity, whose).verdict(model))
        if (pruner, sparsity) in (DENSE, TUNED_AT):
            rows[-1] |= measures.examine(model, cohort, masks)
        if whose == "target" and masks is not None:
            kept = masks
    if pruner != DENSE[0]:
        rows[-1]["mask overlap"] = kept.overlap(masks)
    return rows


def arm(profile: str, seed: int, loss: str, kind: str, pruner: str, sparsity: str, lr: float) -> list[dict]:
    """The row of one arm; after arm A one more for each recipe by which the forgetful dense model is then pruned."""
    cohort, this = Cohort(profile, "verdict", seed), Arm(loss, kind, pruner, sparsity)
    model, masks, judge, seen = forget(cohort, this, lr)
    row = {"loss": loss, "kind": kind, "pruner": pruner, "sparsity": sparsity, "seed": seed, "lr": lr}
    row |= {**seen, **judge.verdict(model)}
    if masks is not None:
        row["non-zero"] = sum(int((dict(model.named_parameters())[n] != 0)[~k].sum()) for n, k in masks.kept.items())
        row["valid 2:4"] = pruning.valid_n_m(masks, 2, 4) if sparsity == "2:4" else None
    if loss == "NPO" and kind != "E" and recipe(this) in (DENSE, TUNED_AT):
        row |= measures.examine(model, cohort, masks)
    rows = [row]
    for after in recipes(profile) if kind == "A" and loss == "NPO" else []:
        pruned = copy.deepcopy(model)
        masks = prune(pruned, cohort, "oracle", *after)
        name = {"loss": loss, "kind": "A", "pruner": after[0], "sparsity": after[1], "seed": seed, "lr": lr}
        rows.append(name | measures.Judge(cohort, *after).verdict(pruned))
        if after == TUNED_AT:
            rows[-1] |= measures.examine(pruned, cohort, masks)
    return rows


def recipes(profile: str) -> list[tuple[str, str]]:
    """The recipes of pruning that any arm uses."""
    return list(dict.fromkeys(recipe(a) for a in arms(profile) if recipe(a) != DENSE))


@dataclass(frozen=True, eq=False)
class Results:
    """`tuning`: one row an arm and step size. `runs`: one row a model, references included; "gap closed" is
    (m_target − m) / (m_target − m_oracle) with m the forget set's mean answer probability, all three pruned alike.
    `again`: the first seed's dense target trained once more, as `sau_probes.train_again` describes it; profiles of
    SmolLM2 have none."""

    tuning: pd.DataFrame
    runs: pd.DataFrame
    values: dict[Arm, float]
    again: dict | None = None

    @property
    def tuned(self) -> list[dict]:
        """The step sizes chosen, as rows."""
        return [{**vars(a), "lr": lr} for a, lr in self.values.items()]

    def column(self, name: str, kind: str, pruner: str = "wanda", sparsity: str = "0.5", loss: str = "NPO"):
        """One column of an arm (or of kind "target" or "oracle") by seed. ValueError for an arm that was not run."""
        loss = "none" if kind in ("target", "oracle") else loss
        rows = self.runs.query("loss == @loss and kind == @kind and pruner == @pruner and sparsity == @sparsity")
        if rows.empty:
            raise ValueError(f"no arm ({loss}, {kind}, {pruner}, {sparsity}) was run")
        return rows.set_index("seed")[name].sort_index()


def execute(profile: str) -> Results:
    """Train, tune, run. Every step is cached, so it can be stopped."""
    setting = Cohort(profile, "verdict", 0).setting
    todo, tuned = arms(profile), dict.fromkeys(a.tuned_as for a in arms(profile))
    train = [] if setting.shipped else [{"what": "model", **config} for config in models(profile)]
    train += [{"what": "again", "profile": profile, "seed": setting.seeds[0], "nudge": NUDGE}]
    grid = [
        {"profile": profile, "seed": seed, **vars(a), "lr": lr}
        for a in tuned
        for lr in GRID
        for seed in setting.tuning_seeds
    ]
    # In one queue, so that no core waits for the last model.
    seen = runs.run_all(step, [*train, *({"what": "trial", **job} for job in grid)], show="SAU 1/2: training, tuning")
    again, tried = seen[len(train) - 1], seen[len(train) :]
    tuning = pd.DataFrame([{**job, "forget": value} for job, value in zip(grid, tried, strict=True)])
    values = chosen(tuning)
    jobs = [
        {"what": "reference", "profile": profile, "seed": s, "pruner": p, "sparsity": share}
        for p, share in [DENSE, *recipes(profile)]
        for s in setting.seeds
    ]
    jobs += [
        {"what": "arm", "profile": profile, "seed": seed, **vars(a), "lr": values[a.tuned_as]}
        for a in todo
        for seed in setting.seeds
    ]
    rows = runs.run_all(step, jobs, show="SAU 2/2: references and arms")
    table = pd.DataFrame(chain.from_iterable(rows))
    return Results(tuning, measures.compared(table), values, again)


def chosen(tuning: pd.DataFrame) -> dict[Arm, float]:
    """Arm -> the step size that forgets most at the common loss of utility; ties to the smaller."""
    names = ["loss", "kind", "pruner", "sparsity"]
    whole = tuning.groupby([*names, "lr"]).forget.agg(lambda p: p.mean(skipna=False)).dropna()
    return {Arm(*key): float(p.droplevel(names).sort_index().idxmin()) for key, p in whole.groupby(level=names)}


def step(what: str, **config) -> list[dict] | dict | float | None:
    """One step of the experiment by its name."""
    steps = {"model": prepare, "again": train_again, "trial": trial, "reference": reference, "arm": arm}
    return steps[what](**config)
