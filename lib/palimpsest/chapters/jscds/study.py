"""The study of the JSCDS chapter: ResNet-20 on CIFAR-10, what `experiment` does at profile `study`, kept with every
prediction. Ready, and not run yet.

Two stages. The full set at the scorers' step size comes first: its arm leaves, as its start, the subsets that all
methods choose and the labels. Then every arm at every step size. An arm stores the classes that it names for the test
and the validation images; tuning by cross-fitting needs nothing else.

How long it takes: one condition of one seed is about 33 trainings on all 10,000 images for 60 epochs, 20 million
images. Two cores that train ResNet-20 on 1,000 images a second need 5.5 hours for it and 165 for all thirty. The
progress bar forecasts the hours that are left from the arms that are done.
"""

from dataclasses import asdict

import numpy as np
import torch

from palimpsest import training
from palimpsest.chapters.jscds.cohort import CONDITIONS, METHODS, PROFILES, Cohort, test_split
from palimpsest.chapters.jscds.experiment import AGAIN, FULL, Arm, chosen_by, recipe_of
from palimpsest.chapters.shared import stored
from palimpsest.chapters.shared.study import Outcome, Plan

NAME, PROFILE = "jscds", "study"


def plan() -> list[Arm]:
    """The arms of every condition: all methods at 50 %, JSCDS and random at 30 and 70 %, in equal epochs, and the
    headline in equal updates."""
    halves = [Arm(method) for method in METHODS]
    curve = [Arm(method, fraction) for fraction in (0.3, 0.7) for method in ("jscds", "random")]
    updates = [Arm("jscds", 0.5, "updates"), Arm("jscds", 0.7, "updates"), Arm("random", 0.5, "updates")]
    return [FULL, AGAIN, *halves, *curve, *updates]


def stages() -> list[list[stored.Arm]]:
    setting = PROFILES[PROFILE]
    arms = [
        {"condition": condition, **asdict(arm), "lr": lr, "seed": seed}
        for condition in setting.conditions
        for arm in plan()
        for lr in setting.lr_grid
        for seed in setting.seeds
    ]
    first = [arm for arm in arms if arm == scorer(arm)]
    return [first, [arm for arm in arms if arm not in first]]


def scorer(arm: stored.Arm) -> stored.Arm:
    """The arm whose start holds the subsets and labels of the same condition and seed."""
    lr = PROFILES[PROFILE].scorer_lr
    return {"condition": arm["condition"], **asdict(FULL), "lr": lr, "seed": arm["seed"]}


def origin(arm: stored.Arm) -> stored.Arm | None:
    return None if arm == scorer(arm) else scorer(arm)


def kind(arm: stored.Arm) -> str:
    return "scorer" if arm == scorer(arm) else f"{arm['fraction']} {arm['matched']}"


def compute(arms: list[stored.Arm]) -> list[Outcome]:
    """Train the networks of `arms`, which differ in their seed alone; those of the scorers also choose."""
    first, setting = arms[0], PROFILES[PROFILE]
    cohort = Cohort(setting, CONDITIONS[first["condition"]], [arm["seed"] for arm in arms])
    arm = Arm(*(first[name] for name in ("method", "fraction", "matched")))
    if first == scorer(first):
        starts, everything = _chosen(cohort), torch.arange(cohort.x.shape[1])
        return _outcomes(cohort, cohort.scorers[0], [everything] * len(arms), starts)
    kept, start = [_kept(a, setting.samples) for a in arms], "second" if arm == AGAIN else "first"
    if len({len(indices) for indices in kept}) > 1:  # wrong labels shift class budgets, and lockstep wants one size
        return [outcome for a in arms for outcome in compute([a])]
    try:
        models = cohort.train_on(torch.stack(kept), recipe_of(setting, arm, first["lr"]), start)
    except training.TrainingDiverged as error:
        if len(arms) > 1:  # which of them did, only single runs can tell
            return [outcome for a in arms for outcome in compute([a])]
        return [Outcome({}, {"diverged": str(error)})]
    return _outcomes(cohort, models, kept, [None] * len(arms))


def _chosen(cohort: Cohort) -> list[dict[str, torch.Tensor]]:
    """For each seed, by `Arm.subset`, which samples are kept, a bit for each; and the labels of test and validation
    images."""
    found, test = chosen_by(cohort, plan()), test_split(cohort.setting).labels
    starts = []
    for k, d in enumerate(cohort.draws):
        start = {"test_labels": test.to(torch.uint8), "validation_labels": d.validation.labels.to(torch.uint8)}
        for name, kept in found.items():
            mask = torch.zeros(len(d.labels), dtype=torch.uint8)
            mask[kept[k]] = 1
            start[name] = torch.from_numpy(np.packbits(mask.numpy()))
        starts.append(start)
    return starts


def _kept(arm: stored.Arm, samples: int) -> torch.Tensor:
    if arm["fraction"] == 1:
        return torch.arange(samples)
    subset = Arm(arm["method"], arm["fraction"]).subset
    bits = np.unpackbits(stored.start(NAME, scorer(arm))[subset].numpy(), count=samples)
    return torch.from_numpy(bits).nonzero().flatten()


def _outcomes(cohort: Cohort, models: list, kept: list[torch.Tensor], starts: list) -> list[Outcome]:
    test = training.logits(models, test_split(cohort.setting).pixels()).argmax(2)
    x = torch.stack([d.validation.pixels() for d in cohort.draws])
    validation = training.logits(models, x).argmax(2)
    return [
        Outcome(
            {"test": test[k].numpy(), "validation": validation[k].numpy()},
            {"kept": len(indices), "wrong_kept": cohort.draws[k].wrong[indices].double().mean().item()},
            start,
        )
        for k, (indices, start) in enumerate(zip(kept, starts, strict=True))
    ]


def measure(arm: stored.Arm, predictions: dict, reference: dict) -> dict[str, float]:
    """Shares of test and validation images whose class is named, and "gain": points of test accuracy beyond those of
    the full set at the scorers' step size, of the same condition and seed."""
    start = stored.start(NAME, scorer(arm))

    def share(arrays: dict, part: str) -> float:
        return float((arrays[part] == start[f"{part}_labels"].numpy()).mean())

    found = {"accuracy": share(predictions, "test"), "validation": share(predictions, "validation")}
    return found | {"gain": 100 * (found["accuracy"] - share(reference, "test"))}


PLAN = Plan(
    name=NAME,
    command="palimpsest run jscds --profile study",
    stages=stages,
    compute=compute,
    reference=scorer,
    origin=origin,
    measure=measure,
    kind=kind,
)
