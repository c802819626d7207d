"""The JSCDS experiment: configuration in, rows out. The chapter and the command line call `run`.

Three kinds of step, each cached by itself: `tune` compares step sizes, `score` trains the scorers of a cohort and
lets every method choose, `train` trains one arm on what was chosen.
"""

from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Literal

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from palimpsest import runs, selection, training
from palimpsest.chapters.jscds.cohort import (
    CLEAN,
    COMPLETE,
    CONDITIONS,
    METHODS,
    MOBILENET,
    PROFILES,
    RESNET,
    Cohort,
    test_split,
)
from palimpsest.chapters.shared.profiles import choose


@dataclass(frozen=True)
class Arm:
    """A subset that networks are trained on: the `fraction` that `method` keeps, with the full set's number of epochs
    or of updates ("steps")."""

    method: str
    fraction: float
    matched: Literal["epochs", "steps"] = "epochs"

    @property
    def subset(self) -> str:
        """Under which `score` returns what is kept."""
        return f"{self.method} {self.fraction}"


HEADLINE = Arm("jscds", 0.5)


def arms(condition: str, architecture: str) -> list[Arm]:
    """Every arm that is run under a condition.

    MobileNetV2 costs several times as much and carries the headline arm only.
    """
    if architecture == MOBILENET:
        return [HEADLINE]
    if condition not in COMPLETE:
        return [HEADLINE, Arm("jscds", 0.7)]
    everyone = [Arm(method, 0.5) for method in METHODS]
    shown = ("jscds", "random", "successor code") if condition == CLEAN.name else ("jscds", "random")
    curve = [Arm(method, fraction) for fraction in (0.1, 0.3, 0.7) for method in shown]
    return [*everyone, *curve, replace(HEADLINE, matched="steps")]


def _signals_if_needed(cohort: Cohort, methods: set[str]) -> list[selection.Signals | None]:
    needed = any(selection.METHODS[METHODS[method]["method"]].needs for method in methods)
    return cohort.signals() if needed else [None] * len(cohort.seeds)


def overlap(a: Tensor, b: Tensor) -> float:
    """Share of `a` that is in `b`; both are index sets of one size."""
    return torch.isin(a, b).double().mean().item()


def rank_correlation(a: Tensor, b: Tensor, labels: Tensor) -> float:
    """Spearman's correlation within each class, averaged over the classes."""
    by_class = [spearmanr(a[labels == c], b[labels == c]).statistic for c in labels.unique()]
    return float(sum(by_class) / len(by_class))


def _cohort(profile: str, architecture: str, condition: str, lr: float) -> Cohort:
    setting = PROFILES[profile]
    return Cohort(setting, architecture, CONDITIONS[condition], setting.seeds_for(architecture), lr)


def score(profile: str, architecture: str, condition: str, lr: float) -> dict:
    """Train the scorers and let every method choose. Returns `full` (test accuracies of the scorers), `kept`
    (`Arm.subset` -> index lists, one per seed) and, where all methods meet, `geometry` (how subsets and
    divergences relate, one record per seed)."""
    cohort = _cohort(profile, architecture, condition, lr)
    test = test_split(cohort.setting)
    plan = arms(condition, architecture)
    signals = _signals_if_needed(cohort, {arm.method for arm in plan})
    subsets = {arm.subset: arm for arm in plan}
    kept = {name: cohort.select(arm.method, arm.fraction, signals) for name, arm in subsets.items()}
    result = {
        "full": training.accuracy(cohort.scorers[0], test.pixels(), test.labels),
        "kept": {name: indices.tolist() for name, indices in kept.items()},
    }
    if signals[0] is None:
        return result
    text, ours = selection.PRESETS["paper_text"], kept[HEADLINE.subset]
    features, others = (cohort.embed(s[0], text) for s in (cohort.scorers, cohort.other_scorers))
    result["geometry"] = [
        {
            "seed": seed,
            "rank correlation": {
                other: rank_correlation(
                    selection.divergence_to_centre(f, y, "jsd"),
                    selection.divergence_to_centre(f, y, other),
                    y,
                )
                for other in ("l2", "half_jeffreys")
            },
            "overlap": {
                "another start of the scorer": overlap(ours[k], selection.select(other_f, y, 0.5)),
                **{m: overlap(ours[k], kept[Arm(m, 0.5).subset][k]) for m in METHODS if m != "jscds"},
            },
        }
        for k, (seed, f, other_f, y) in enumerate(zip(cohort.seeds, features, others, cohort.y, strict=True))
    ]
    return result


def train(
    profile: str,
    architecture: str,
    condition: str,
    method: str,
    fraction: float,
    matched: str,
    lr: float,
    lr_full: float,
) -> list[dict]:
    """One arm: a network for every seed on the subset that `method` chose. One row per network."""
    arguments = {"profile": profile, "architecture": architecture, "condition": condition}
    cohort = _cohort(**arguments, lr=lr)
    test = test_split(cohort.setting)
    chosen = runs.cached(score, {**arguments, "lr": lr_full})["kept"][Arm(method, fraction).subset]
    kept = torch.tensor(chosen)
    recipe = cohort.setting.recipe(lr)
    if matched == "steps":
        recipe = replace(recipe, steps=recipe.total_steps(cohort.x.shape[1]))
    accuracies = training.accuracy(cohort.train_on(kept, recipe), test.pixels(), test.labels)
    return [
        {
            **{"architecture": architecture, "condition": condition, "method": method, "fraction": fraction},
            **{"matched": matched, "seed": seed, "accuracy": accuracy, "kept": kept.shape[1]},
            "wrong_kept": d.wrong[indices].double().mean().item(),
        }
        for seed, accuracy, d, indices in zip(cohort.seeds, accuracies, cohort.draws, kept, strict=True)
    ]


def tune(profile: str, architecture: str, lr: float) -> list[dict]:
    """Validation accuracy of every method at one step size: 50 % kept, clean labels, the tuning seed.

    The methods' networks share one seed and one number of samples, so they too are trained in lockstep.
    """
    setting = PROFILES[profile]
    cohort = Cohort(setting, architecture, CLEAN, [setting.tuning_seed], lr)
    methods = sorted({arm.method for arm in arms(CLEAN.name, architecture)})
    signals = _signals_if_needed(cohort, set(methods))
    kept = [cohort.select(method, 0.5, signals)[0] for method in methods]
    models = cohort.networks(copies=len(methods))
    x, y = (torch.stack([values[0, indices] for indices in kept]) for values in (cohort.x, cohort.y))
    training.fit(models, x, y, setting.recipe(lr), seeds=cohort.starts() * len(methods))
    validation = cohort.draws[0].validation
    accuracies = training.accuracy([*cohort.scorers[0], *models], validation.pixels(), validation.labels)
    return [
        {"architecture": architecture, "method": method, "lr": lr, "accuracy": accuracy}
        for method, accuracy in zip(["full", *methods], accuracies, strict=True)
    ]


def best_lr(tuning: pd.DataFrame) -> dict[str, dict[str, float]]:
    """architecture -> {"full", "subset"} -> the step size of highest validation accuracy; ties to the smaller.

    All subsets share one, that of the highest mean over methods. They hold as many samples, and a step size of
    its own, chosen on one seed, would add more noise to a method than it takes away; shared, it leaves the
    subset as the only difference between two arms.
    """
    arm = tuning.method.where(tuning.method == "full", "subset")
    mean = tuning.groupby(["architecture", arm, "lr"]).accuracy.mean().reset_index()
    ordered = mean.sort_values(["accuracy", "lr"], ascending=[True, False])
    best = ordered.groupby(["architecture", "method"]).lr.last()
    return {architecture: best[architecture].to_dict() for architecture in best.index.unique(0)}


@dataclass(frozen=True, eq=False)
class Results:
    """The experiment's tables: `tuning`, `rows` (one row per trained network), `geometry` (one row per seed and
    complete condition), and `lrs`, the step sizes chosen."""

    tuning: pd.DataFrame
    rows: pd.DataFrame
    geometry: pd.DataFrame
    lrs: dict[str, dict[str, float]]

    @property
    def tuned(self) -> list[dict]:
        """The step sizes chosen, as rows."""
        return [{"architecture": a, "arm": arm, "lr": lr} for a, arms in self.lrs.items() for arm, lr in arms.items()]

    def accuracies(
        self,
        method: str,
        fraction: float = 0.5,
        condition: str = "clean",
        matched: str = "epochs",
        architecture: str = RESNET,
    ) -> pd.Series:
        """Test accuracy in percent by seed, of one arm."""
        rows = self.rows.query(
            "method == @method and fraction == @fraction and condition == @condition and matched == @matched "
            "and architecture == @architecture"
        )
        if rows.empty:
            raise ValueError(f"no arm ({method}, {fraction}, {condition}, {matched}, {architecture}) was run")
        return 100 * rows.set_index("seed").accuracy.sort_index()


def run(profile: str) -> Results:
    """The whole experiment at one profile: tune, score, train. Every step is cached, so it can be stopped."""
    setting = choose(profile, PROFILES)
    grid = [{"profile": profile, "architecture": a, "lr": lr} for a in (MOBILENET, RESNET) for lr in setting.lr_grid]
    tuning = pd.DataFrame(chain.from_iterable(runs.run_all(tune, grid, show="JSCDS 1/3: step sizes")))
    lrs = best_lr(tuning)
    cohorts = [(MOBILENET, c) for c in COMPLETE] + [(RESNET, c) for c in setting.conditions]
    scoring = [{"profile": profile, "architecture": a, "condition": c, "lr": lrs[a]["full"]} for a, c in cohorts]
    scored = runs.run_all(score, scoring, show="JSCDS 2/3: scorers and subsets")
    training_jobs = [
        {
            **dict(zip(("profile", "architecture", "condition"), (profile, a, c), strict=True)),
            **asdict(arm),
            "lr": lrs[a]["subset"],
            "lr_full": lrs[a]["full"],
        }
        for a, c in cohorts
        for arm in arms(c, a)
    ]
    trained = runs.run_all(train, training_jobs, show="JSCDS 3/3: networks")
    full = [
        {
            "architecture": a,
            "condition": c,
            "method": "full",
            "fraction": 1.0,
            "matched": "epochs",
            "seed": seed,
            "accuracy": accuracy,
            "kept": setting.samples,
            "wrong_kept": CONDITIONS[c].rate,
        }
        for (a, c), result in zip(cohorts, scored, strict=True)
        for seed, accuracy in zip(setting.seeds_for(a), result["full"], strict=True)
    ]
    geometry = [
        {"condition": c, **record}
        for (_, c), result in zip(cohorts, scored, strict=True)
        for record in result.get("geometry", [])
    ]
    return Results(tuning, pd.DataFrame([*full, *chain.from_iterable(trained)]), pd.json_normalize(geometry), lrs)
