"""The study of the two unlearning chapters: what `experiment` does at its headline, kept with every prediction.

Two stages: the networks (originals, whose weights are stored, Retrain and Retrain again), and every method at every
value of its grid on every seed. The value of a seed is what did best on the seeds after it (`tuned`), so that nothing
is run again once it is chosen. An arm stores its logits on the forget set and on parts of the retain set, of the test
and of the validation images, with the labels of all four.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from palimpsest.chapters.shared import stored
from palimpsest.chapters.shared.stored import Arm
from palimpsest.chapters.shared.study import Outcome, Plan
from palimpsest.chapters.unlearning_quantised import measures
from palimpsest.chapters.unlearning_quantised.arms import METHODS, REFERENCES, STUDIED, STUDIED_AT
from palimpsest.chapters.unlearning_quantised.cohort import Cohort
from palimpsest.chapters.unlearning_quantised.experiment import at_values, chosen, forget, grid
from palimpsest.chapters.unlearning_quantised.measures import Outputs
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.metrics.distances import avg_gap
from palimpsest.training import TrainingDiverged, seeds

NAME, PROFILE = "unlearning_quantised", "study"
PARTS = ("forget", "retain", "test", "validation")
KEPT = 200
"""Samples of the retain set, of the test and of the validation images whose logits are stored."""


def stages() -> list[list[Arm]]:
    setting = PROFILES[PROFILE]
    networks = [_arm(method, seed) for seed in setting.seeds for method in REFERENCES]
    methods = [
        _arm(method, seed, value=value)
        for seed in setting.seeds
        for method in STUDIED
        for value in grid(PROFILE, STUDIED_AT[0], method)
    ]
    return [networks, methods]


def _arm(method: str, seed: int, **more: float) -> Arm:
    precision, forget_set = STUDIED_AT
    return {"precision": precision, "forget_set": forget_set, "method": method, **more, "seed": seed}


def reference(arm: Arm) -> Arm:
    """Retrain of the same seed; of an original or of Retrain too."""
    return _arm("retrain", arm["seed"])


def origin(arm: Arm) -> Arm | None:
    """The original that a method starts from."""
    return None if arm["method"] in REFERENCES else _arm("original", arm["seed"])


def kind(arm: Arm) -> str:
    return arm["method"]


def compute(arms: list[Arm]) -> list[Outcome]:
    """Train the networks, or forget by the method: all seeds in lockstep."""
    first = arms[0]
    where = [first[name] for name in ("precision", "forget_set")]
    cohort, method = Cohort.named(PROFILE, *where, only=[arm["seed"] for arm in arms]), first["method"]
    counted, starts = {}, [None] * len(arms)
    if method == "original":
        starts = [stored.halved(model.state_dict()) for model in cohort.load("original")]
        models = _loaded(cohort, starts)  # measured as stored: that is what the methods start from
    elif method in REFERENCES:
        models = cohort.load(method)
    else:
        originals = _loaded(cohort, [stored.start(NAME, origin(arm)) for arm in arms])
        values = [first["value"]] * len(arms)
        try:
            models, done = forget(cohort, method, METHODS[method], range(len(arms)), values, originals)
        except TrainingDiverged as error:
            if len(arms) > 1:  # which of them did, only single runs can tell
                return [outcome for arm in arms for outcome in compute([arm])]
            return [Outcome({}, {"diverged": str(error)})]
        # A pass backward costs about two forward ones: gradients of the weights and of the inputs.
        counted = {"steps": done.steps, "work": done.samples_forward + 2.0 * done.samples_backward}
    found = _outputs(models, cohort)
    return [Outcome(arrays, counted, start) for arrays, start in zip(found, starts, strict=True)]


def _loaded(cohort: Cohort, states: list[dict[str, torch.Tensor]]) -> list[nn.Module]:
    models = cohort.blank()
    for model, state in zip(models, states, strict=True):
        model.load_state_dict(state)
    return models


def _outputs(models: list[nn.Module], cohort: Cohort) -> list[dict[str, np.ndarray]]:
    """Logits [n, C] and labels [n] of each network on the four parts."""
    problem = cohort.problem()
    drawn = [torch.randperm(problem.retain.shape[1], generator=seeds.generator(s, "stored")) for s in cohort.seeds]
    rows = torch.stack(drawn)[:, :KEPT].sort(1).values.to(problem.retain.device)
    test, validation = ((x[:KEPT], y[:KEPT]) for x, y in (problem.test, problem.validation))
    few = replace(problem, retain=problem.retain.gather(1, rows), test=test, validation=validation)
    found = measures.outputs(models, few)
    return [
        {name: found.logits[name][k].cpu().numpy() for name in PARTS}
        | {f"{name}_labels": found.labels[name][k].cpu().numpy() for name in PARTS}
        for k in range(len(models))
    ]


def said(arrays: dict[str, np.ndarray]) -> Outputs:
    """Stored predictions as those of K = 1 network."""
    logits = {name: torch.from_numpy(arrays[name]).float()[None] for name in PARTS}
    return Outputs(logits, {name: torch.from_numpy(arrays[f"{name}_labels"]).long()[None] for name in PARTS})


def measure(arm: Arm, arrays: dict[str, np.ndarray], retrained: dict[str, np.ndarray]) -> dict[str, float]:
    """FA, RA, TA and MIA, the average gap to Retrain in points on test and on validation images, `measures.told`, and
    agreement: the share of the forget set where both name the same class."""
    own, target = said(arrays), said(retrained)
    found = {}
    for unseen, name in (("validation", "tuning_gap"), ("test", "gap")):
        row, other = (measures.report(those, [arm["seed"]], unseen)[0] for those in (own, target))
        found |= row | {name: avg_gap(row, other)}
    details = measures.told(own, target, 0, 0)
    both = (those["forget"].argmax(1) for those in (arrays, retrained))
    return (
        found
        | {name: float("nan") if value is None else value for name, value in details.items()}
        | {"agreement": float(np.equal(*both).mean())}
    )


def tuned(table: pd.DataFrame) -> pd.DataFrame:
    """Of the study's table, the rows at the value of each method and seed, as `experiment.chosen`."""
    tried = table[table["value"].notna()]
    return at_values(tried, chosen(tried, PROFILES[PROFILE].tuned_on))


PLAN = Plan(
    name=NAME,
    command="palimpsest run qmul --profile study",
    stages=stages,
    compute=compute,
    reference=reference,
    origin=origin,
    measure=measure,
    kind=kind,
)
