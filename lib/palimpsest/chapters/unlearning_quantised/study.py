"""The study of the two unlearning chapters: what `experiment` does at its headline, kept with every prediction.

Three stages: the networks (originals, whose weights are stored, and Retrain), every method at every value of its grid
on the tuning seeds, and every method at the value chosen on the seeds that claims are judged on. An arm stores its
logits on the forget set, on the test images, and on as many retain samples, with the labels of all three.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from palimpsest.chapters.shared import stored
from palimpsest.chapters.shared.stored import Arm
from palimpsest.chapters.shared.study import Outcome, Plan
from palimpsest.chapters.unlearning_quantised import measures
from palimpsest.chapters.unlearning_quantised.arms import METHODS, STUDIED, STUDIED_AT
from palimpsest.chapters.unlearning_quantised.cohort import Cohort
from palimpsest.chapters.unlearning_quantised.experiment import chosen, forget
from palimpsest.chapters.unlearning_quantised.measures import Outputs
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.metrics.distances import avg_gap
from palimpsest.training import TrainingDiverged, seeds

NAME, PROFILE = "unlearning_quantised", "study"
PARTS = ("forget", "retain", "test")


def stages() -> list[list[Arm]]:
    setting = PROFILES[PROFILE]
    groups = (("tuning", setting.tuning_seeds), ("judged", setting.seeds))
    networks = [
        _arm(group, method, seed) for group, those in groups for seed in those for method in ("original", "retrain")
    ]
    judged = [_arm("judged", method, seed) for method in STUDIED for seed in setting.seeds]
    return [networks, list(_tuning()), judged]


def _tuning() -> Iterator[Arm]:
    setting = PROFILES[PROFILE]
    for method in STUDIED:
        for value in METHODS[method].grid:
            if value <= setting.largest:
                yield from (_arm("tuning", method, seed, value=value) for seed in setting.tuning_seeds)


def _arm(group: str, method: str, seed: int, **more: float) -> Arm:
    precision, forget_set = STUDIED_AT
    return {"group": group, "precision": precision, "forget_set": forget_set, "method": method, **more, "seed": seed}


def reference(arm: Arm) -> Arm:
    """Retrain of the same seed; of an original or of Retrain too."""
    return _arm(arm["group"], "retrain", arm["seed"])


def origin(arm: Arm) -> Arm | None:
    """The original that a method starts from."""
    if arm["method"] in ("original", "retrain"):
        return None
    return _arm(arm["group"], "original", arm["seed"])


def kind(arm: Arm) -> str:
    return arm["method"]


def compute(arms: list[Arm]) -> list[Outcome]:
    """Train the networks, or forget by the method: all seeds in lockstep."""
    first = arms[0]
    where = [first[name] for name in ("group", "precision", "forget_set")]
    cohort, method = Cohort.named(PROFILE, *where, only=[arm["seed"] for arm in arms]), first["method"]
    counted, starts = {}, [None] * len(arms)
    if method == "retrain":
        models = cohort.load("retrain")
    elif method == "original":
        starts = [stored.halved(model.state_dict()) for model in cohort.load("original")]
        models = _loaded(cohort, starts)  # measured as stored: that is what the methods start from
    else:
        value = first.get("value") or tuned(method)
        if value is None:
            return [Outcome({}, {"diverged": "every value of the grid, in tuning"})] * len(arms)
        models = _loaded(cohort, [stored.start(NAME, origin(arm)) for arm in arms])
        try:
            done = forget(models, cohort.problem(), cohort.setting, method, value)
        except TrainingDiverged as error:
            if len(arms) > 1:  # which of them did, only single runs can tell
                return [outcome for arm in arms for outcome in compute([arm])]
            return [Outcome({}, {"value": value, "diverged": str(error)})]
        # A pass backward costs about two forward ones: gradients of the weights and of the inputs.
        counted = {"value": value, "work": done.samples_forward + 2.0 * done.samples_backward}
    found = _outputs(models, cohort)
    return [Outcome(arrays, counted, start) for arrays, start in zip(found, starts, strict=True)]


def _loaded(cohort: Cohort, states: list[dict[str, torch.Tensor]]) -> list[nn.Module]:
    models = cohort.blank()
    for model, state in zip(models, states, strict=True):
        model.load_state_dict(state)
    return models


def _outputs(models: list[nn.Module], cohort: Cohort) -> list[dict[str, np.ndarray]]:
    """Logits [n, C] and labels [n] of each network on the three parts."""
    problem, n = cohort.problem(), min(cohort.retain.shape[1], len(cohort.test[1]))
    drawn = [torch.randperm(problem.retain.shape[1], generator=seeds.generator(s, "stored")) for s in cohort.seeds]
    rows = torch.stack(drawn)[:, :n].sort(1).values.to(problem.retain.device)
    found = measures.outputs(models, replace(problem, retain=problem.retain.gather(1, rows)))
    return [
        {name: found.logits[name][k].cpu().numpy() for name in PARTS}
        | {f"{name}_labels": found.labels[name][k].cpu().numpy() for name in PARTS}
        for k in range(len(models))
    ]


def said(arrays: dict[str, np.ndarray]) -> Outputs:
    """Stored predictions as those of K = 1 network."""
    logits = {name: torch.from_numpy(arrays[name]).float()[None] for name in PARTS}
    return Outputs(logits, {name: torch.from_numpy(arrays[f"{name}_labels"]).long()[None] for name in PARTS})


def shares(arm: Arm, arrays: dict[str, np.ndarray], retrained: dict[str, np.ndarray]) -> dict[str, float]:
    """FA, RA, TA and MIA as `measures.report`, and the average gap to Retrain in points."""
    own, target = (measures.report(said(those), [arm["seed"]])[0] for those in (arrays, retrained))
    return own | {"gap": avg_gap(own, target)}


def measure(arm: Arm, arrays: dict[str, np.ndarray], retrained: dict[str, np.ndarray]) -> dict[str, float]:
    """`shares`, `measures.told`, and agreement: the share of the forget set where both name the same class."""
    details = measures.told(said(arrays), said(retrained), 0)
    details = {name: float("nan") if value is None else value for name, value in details.items()}
    both = (those["forget"].argmax(1) for those in (arrays, retrained))
    return shares(arm, arrays, retrained) | details | {"agreement": float(np.equal(*both).mean())}


def tuned(method: str) -> float | None:
    """The value of smallest mean gap over the tuning seeds, as `experiment.chosen`; None if every one diverged."""
    rows = []
    for arm in _tuning():
        if arm["method"] == method:
            arrays, target = stored.predictions(NAME, arm), stored.predictions(NAME, reference(arm))
            gap = shares(arm, arrays, target)["gap"] if arrays and target else None
            rows.append({**{name: arm[name] for name in ("precision", "method", "value")}, "gap": gap})
    return chosen(pd.DataFrame(rows).astype({"gap": float})).get((STUDIED_AT[0], method))


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
