"""The JSCDS experiment: configuration in, rows out. The chapter and the command line call `execute`.

Two kinds of step, each cached by itself: `score` trains the scorers of a cohort and lets every method choose, `train`
trains one arm at one step size on what was chosen.

Every arm is trained at every step size in every replication, and tuned by cross-fitting over replications
(`Results.chosen`): replication r takes the step size of the highest mean validation accuracy over the *others*. So
each replication has a tuning of its own, the interval over replications holds the noise of tuning, and no test image
and no image of replication r has a say in its step size.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from palimpsest import runs, training
from palimpsest.chapters.jscds.cohort import (
    CLEAN,
    CONDITIONS,
    METHODS,
    NOISY,
    PROFILES,
    Cohort,
    Setting,
    test_split,
)
from palimpsest.chapters.jscds.geometry import geometry
from palimpsest.chapters.shared.profiles import choose
from palimpsest.selection import METHODS as LIBRARY


@dataclass(frozen=True)
class Arm:
    """What networks are trained on: the `fraction` that `method` keeps, with the full set's number of epochs or of
    updates ("updates"). Methods "full" and "full again" keep everything, from two different starts."""

    method: str
    fraction: float = 0.5
    matched: Literal["epochs", "updates"] = "epochs"

    @property
    def subset(self) -> str:
        """Under which `score` returns what is kept."""
        return f"{self.method} {self.fraction}"


ARM = ("method", "fraction", "condition", "matched")
"""The columns by which rows name an arm."""
FULL, AGAIN = Arm("full", 1.0), Arm("full again", 1.0)
HEADLINE = Arm("jscds", 0.5)
NOISY_HALVES = ("el2n", "low-loss", "cleanlab", "L2 near-mean", "successor code", "farthest, trained head")


def arms(condition: str) -> list[Arm]:
    """Every arm that is run under a condition. On clean labels all methods meet, with wrong labels those that the
    claims about wrong labels name; each table holds the full set twice and random selection twice."""
    halves = ("jscds", "random", "random again", "moderate")
    most = [FULL, AGAIN, *(Arm(method) for method in halves), Arm("jscds", 0.7), replace(HEADLINE, matched="updates")]
    if condition == CLEAN.name:
        others = [Arm(method) for method in METHODS if method not in halves]
        curve = [Arm("jscds", 0.3), Arm("random", 0.3), Arm("random", 0.7)]
        return [*most, *others, *curve, Arm("jscds", 0.7, "updates"), Arm("random", 0.5, "updates")]
    if condition == NOISY.name:
        curve = [Arm("jscds", 0.3), Arm("random", 0.3), Arm("random", 0.7)]
        return [*most, *(Arm(method) for method in NOISY_HALVES), *curve, Arm("random", 0.5, "updates")]
    return most


def chosen_by(cohort: Cohort, plan: list[Arm]) -> dict[str, Tensor]:
    """`Arm.subset` -> the indices kept [K, n], of every arm of `plan` that does not keep everything."""
    subsets = {arm.subset: arm for arm in plan if arm.fraction < 1}
    needed = {field for arm in subsets.values() for field in LIBRARY[METHODS[arm.method].arguments["method"]].needs}
    signals = cohort.signals(needed)
    return {name: cohort.select(arm.method, arm.fraction, signals) for name, arm in subsets.items()}


def cohort_of(profile: str, condition: str) -> Cohort:
    setting = choose(profile, PROFILES)
    return Cohort(setting, CONDITIONS[condition], setting.seeds)


def score(profile: str, condition: str) -> dict:
    """Train the scorers and let every method choose. Returns `kept` (`Arm.subset` -> index lists, one per seed),
    `rows` (as `train`, of the scorers: they are the full set's arms at the scorers' step size), `fitted` (shares of
    the wrong and of the right labels that the scorer fits, one pair per seed) and, on clean labels, `geometry`."""
    cohort = cohort_of(profile, condition)
    kept = chosen_by(cohort, arms(condition))
    lr, everything = cohort.setting.scorer_lr, _everything(cohort)
    rows = [
        row
        for arm, models in ((FULL, cohort.scorers[0]), (AGAIN, cohort.other_scorers[0]))
        for row in measured(cohort, condition, arm, lr, everything, models)
    ]
    right = cohort.predicted("trained")[1].argmax(2) == cohort.y
    fitted = [
        {
            "condition": condition,
            "seed": seed,
            "wrong": right[k][d.wrong].double().mean().item() if d.wrong.any() else None,
            "right": right[k][~d.wrong].double().mean().item(),
        }
        for k, (seed, d) in enumerate(zip(cohort.seeds, cohort.draws, strict=True))
    ]
    result = {"kept": {name: indices.tolist() for name, indices in kept.items()}, "rows": rows, "fitted": fitted}
    if condition == CLEAN.name:
        result["geometry"] = geometry(
            cohort, {name.rpartition(" ")[0]: k for name, k in kept.items() if "0.5" in name}
        )
    return result


def _everything(cohort: Cohort) -> Tensor:
    return torch.arange(cohort.x.shape[1]).expand(len(cohort.seeds), -1)


def measured(
    cohort: Cohort, condition: str, arm: Arm, lr: float, kept: Tensor, models: list[nn.Module] | None
) -> list[dict]:
    """A row per network: shares in [0, 1] of test and validation images that it names. Networks that diverged (None)
    name none."""
    tested = validated = [0.0] * len(cohort.seeds)
    if models is not None:
        test = test_split(cohort.setting)
        tested = training.accuracy(models, test.pixels(), test.labels)
        x = torch.stack([d.validation.pixels() for d in cohort.draws])
        y = torch.stack([d.validation.labels for d in cohort.draws])
        validated = (training.logits(models, x).argmax(2) == y).double().mean(1).tolist()
    return [
        {
            **{"condition": condition, **asdict(arm), "lr": lr, "seed": seed},
            **{"accuracy": accuracy, "validation": validation, "diverged": models is None},
            **{"kept": len(indices), "wrong_kept": d.wrong[indices].double().mean().item()},
        }
        for seed, d, indices, accuracy, validation in zip(
            cohort.seeds, cohort.draws, kept, tested, validated, strict=True
        )
    ]


def train(
    profile: str, condition: str, method: str, fraction: float, matched: str, lr: float, seed: int | None = None
) -> list[dict]:
    """One arm at one step size: a network for every seed, or for `seed` alone, on the subset that `method` chose.

    A run that diverges is an outcome, which only runs one by one can name.
    """
    cohort, arm = cohort_of(profile, condition), Arm(method, fraction, matched)
    kept = _everything(cohort)
    if fraction < 1:
        chosen = runs.cached(score, {"profile": profile, "condition": condition})["kept"]
        kept = torch.tensor(chosen[arm.subset])
    if seed is not None:
        kept = kept[cohort.seeds.index(seed)][None]
        cohort = Cohort(cohort.setting, cohort.condition, [seed])
    try:
        models = cohort.train_on(kept, recipe_of(cohort.setting, arm, lr), "second" if arm == AGAIN else "first")
    except training.TrainingDiverged:
        if seed is None:
            return [row for s in cohort.seeds for row in train(profile, condition, method, fraction, matched, lr, s)]
        models = None
    return measured(cohort, condition, arm, lr, kept, models)


def recipe_of(setting: Setting, arm: Arm, lr: float) -> training.Recipe:
    """How an arm is trained: the full set's epochs, or as many updates as the full set gets."""
    recipe = setting.recipe(lr)
    return replace(recipe, steps=recipe.total_steps(setting.samples)) if arm.matched == "updates" else recipe


def looked(profile: str) -> list[dict]:
    """One row per seed and look: test accuracy of random halves, clean labels, at ten epochs of the training."""
    cohort, test = cohort_of(profile, CLEAN.name), test_split(PROFILES[profile])
    kept = torch.tensor(runs.cached(score, {"profile": profile, "condition": CLEAN.name})["kept"]["random 0.5"])
    models, epochs, rows = cohort.networks(), cohort.setting.epochs, []
    at = {max(1, round(epochs * tenth / 10)) for tenth in range(1, 11)}

    def look(epoch: int) -> None:
        if epoch in at:
            found = training.accuracy(models, test.pixels(), test.labels)
            rows.extend({"epoch": epoch, "seed": s, "accuracy": a} for s, a in zip(cohort.seeds, found, strict=True))

    row = torch.arange(len(models))[:, None]
    recipe = cohort.setting.recipe(cohort.setting.scorer_lr)
    training.fit(models, cohort.x[row, kept], cohort.y[row, kept], recipe, seeds=cohort.starts(), on_epoch=look)
    return rows


def seen(profile: str, condition: str) -> dict[str, Tensor]:
    """What one scorer, of the first seed alone, sees: `images` [N, H, W(, C)], `labels` as given [N], which of them
    are `wrong` [N], and the `features` [N, D] that JSCDS reads."""
    setting = choose(profile, PROFILES)
    cohort = Cohort(setting, CONDITIONS[condition], setting.seeds[:1])
    (d,), features = cohort.draws, cohort.predicted("trained")[0][0]
    return {"images": d.train.images, "labels": d.labels, "wrong": d.wrong, "features": features}


@dataclass(frozen=True, eq=False)
class Results:
    """The experiment's tables. `rows`: a row for each network trained, at every step size. `geometry`: one for each
    seed, clean labels. `fitted`: one for each condition and seed. `looks`: as `looked`. `left_out`: a replication
    whose validation images no step size is chosen by."""

    rows: pd.DataFrame
    geometry: pd.DataFrame
    fitted: pd.DataFrame
    looks: pd.DataFrame
    left_out: int | None = None

    @property
    def seeds(self) -> list[int]:
        return sorted(set(self.rows.seed.tolist()))

    @cached_property
    def _at_each(self) -> pd.DataFrame:
        """The values "validation" and "accuracy" at each step size (columns) by arm and seed."""
        return self.rows.pivot(index=[*ARM, "seed"], columns="lr", values=["validation", "accuracy"])

    def at_each(self, values: str, *arm: str | float) -> pd.DataFrame:
        """The `values` of an arm, as `ARM`, by seed (index) and step size. Raises ValueError for an arm that was not
        run."""
        if arm not in self._at_each.index:
            raise ValueError(f"no arm ({', '.join(map(str, arm))}) was run")
        return self._at_each.loc[arm, values].dropna(axis="columns", how="all")

    def chosen(
        self, method: str, fraction: float = 0.5, condition: str = CLEAN.name, matched: str = "epochs"
    ) -> pd.Series:
        """Seed -> the step size of the highest mean validation accuracy over the other replications; ties to the
        smaller."""
        table = self.at_each("validation", method, fraction, condition, matched)
        seeds, lrs, values = table.index.to_numpy(), table.columns.to_numpy(), table.to_numpy().T
        others = {s: (seeds != s) & (seeds != self.left_out) for s in seeds}  # pandas would take ten times as long
        return pd.Series({s: float(lrs[np.nanmean(values[:, o], axis=1).argmax()]) for s, o in others.items()})

    def accuracies(
        self, method: str, fraction: float = 0.5, condition: str = CLEAN.name, matched: str = "epochs"
    ) -> pd.Series:
        """Test accuracy in percent by seed, each at its chosen step size."""
        table = self.at_each("accuracy", method, fraction, condition, matched)
        chosen = self.chosen(method, fraction, condition, matched)
        return 100 * pd.Series({seed: table.loc[seed, lr] for seed, lr in chosen.items()})


def execute(profile: str) -> Results:
    """The whole experiment at one profile: score, then train. Every step is cached, so it can be stopped."""
    setting = choose(profile, PROFILES)
    scoring = [{"profile": profile, "condition": c} for c in setting.conditions]
    scored = runs.run_all(score, scoring, show="JSCDS 1/2: scorers and subsets")
    jobs = [
        {"profile": profile, "condition": c, **asdict(arm), "lr": lr}
        for c in setting.conditions
        for arm in arms(c)
        for lr in setting.lr_grid
        if not (arm in (FULL, AGAIN) and lr == setting.scorer_lr)  # the scorers themselves
    ]
    trained = runs.run_all(train, jobs, show="JSCDS 2/2: networks")
    rows = [*chain.from_iterable(result["rows"] for result in scored), *chain.from_iterable(trained)]
    shapes = [record for result in scored for record in result.get("geometry", [])]
    fitted = [record for result in scored for record in result["fitted"]]
    looks = runs.cached(looked, {"profile": profile})
    return Results(pd.DataFrame(rows), pd.json_normalize(shapes), pd.DataFrame(fitted), pd.DataFrame(looks))
