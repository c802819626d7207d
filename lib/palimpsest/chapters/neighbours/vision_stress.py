"""The stress tests in small worlds: random, one-class and worst-case forget sets, under every method.

Step sizes are tuned as in chapters 2 and 3: each world takes the value that did best on the validation images of the
world after it, on random sets, whatever it then is to forget.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from palimpsest import runs, training
from palimpsest.chapters.neighbours.vision_probes import knowledge
from palimpsest.chapters.neighbours.vision_worlds import (
    PROFILES,
    Setting,
    firsts,
    loaded,
    packed,
    problem,
    unpacked,
    world,
)
from palimpsest.chapters.unlearning_quantised import measures
from palimpsest.chapters.unlearning_quantised.arms import METHODS
from palimpsest.chapters.unlearning_quantised.cohort import Problem
from palimpsest.metrics.distances import avg_gap
from palimpsest.training import seeds as draws
from palimpsest.unlearning.vision import Method, unlearn
from palimpsest.unlearning.vision.datamodels import DatamodelMatching
from palimpsest.unlearning.vision.worst_case import worst_case

PUBLISHED = ("fine-tune", "random label", "SCRUB", "Q-MUL", "OEU")


def forgotten(setting: Setting, models: list[nn.Module], given: Problem, method: Method, values) -> list[nn.Module]:
    """Copies of `models` after `method`, at one value each."""
    copies = [copy.deepcopy(model) for model in models]
    settings = {"epochs": setting.unlearn_epochs, "batch_size": setting.unlearn_batch}
    settings["retain_samples"] = min(setting.retain_samples, given.retain.shape[1])
    own = [draws.derived(seed, "unlearning", k) for k, seed in enumerate(given.seeds)]
    unlearn(copies, given.x, given.y, given.forget, method, lr=list(values), seeds=own, **settings)
    return copies


def named(profile: str, method: str, given: Problem, originals: list[nn.Module]) -> Method:
    """A method of chapters 2 and 3, or datamodel matching, "DMM", for these networks."""
    if method != "DMM":
        return METHODS[method]
    predicted = training.logits(originals, given.x).clone()
    for k, seed in enumerate(given.seeds):
        added = runs.artifact(world, {"profile": profile, "seed": seed})["contribution"]
        predicted[k, given.forget[k]] -= added
    return DatamodelMatching(predicted=predicted)


def first_of(profile: str, kind: str) -> list[nn.Module]:
    """The first network of that kind of every world."""
    return [loaded(profile, seed, kind, 1)[0] for seed in PROFILES[profile].seeds]


def tried(profile: str, method: str, values: Sequence[float]) -> list[dict]:
    """Gap to Retrain on validation images at every value, on the first network of each world; NaN for all of them at
    a value at which one diverges."""
    setting, rows = PROFILES[profile], []
    given = problem(setting, setting.seeds)
    originals, retrained = first_of(profile, "original"), first_of(profile, "retrain")
    targets = measures.report(measures.outputs(retrained, given), given.seeds, "validation")
    chosen = named(profile, method, given, originals)
    for value in values:
        try:
            models = forgotten(setting, originals, given, chosen, [value] * len(originals))
            found = measures.report(measures.outputs(models, given), given.seeds, "validation")
            gaps = [avg_gap(own, target) for own, target in zip(found, targets, strict=True)]
        except training.TrainingDiverged:
            gaps = [float("nan")] * len(originals)
        for seed, gap in zip(given.seeds, gaps, strict=True):
            rows.append({"precision": "float", "method": method, "value": value, "seed": seed, "tuning_gap": gap})
    return rows


def elsewhere(profile: str, kind: str, values: Sequence[float]) -> dict[str, Tensor]:
    """A forget set of another `kind` in each world, "chosen" [K, F], and the Retrain of each, `packed`. "one
    class": that of the seed's last digit. "worst case": what is left after fine-tuning at these values."""
    setting = PROFILES[profile]
    given = problem(setting, setting.seeds)
    if kind == "one class":
        classes = [(y == seed % 10).nonzero()[:, 0] for y, seed in zip(given.y, given.seeds, strict=True)]
        chosen = torch.stack([one[: setting.forget] for one in classes])
    else:

        def below(copies, forget):
            part = problem(setting, setting.seeds, forget)
            tuned = forgotten(setting, copies, part, METHODS["fine-tune"], values)
            for network, other in zip(copies, tuned, strict=True):
                network.load_state_dict(other.state_dict())

        originals = first_of(profile, "original")
        chosen = worst_case(originals, given.x, given.y, setting.forget, below, seeds=given.seeds)
    given = problem(setting, setting.seeds, chosen)
    models = firsts(setting, *given.take(given.retain), given.seeds)
    return {"chosen": chosen} | packed("retrain", models)


def settled(profile: str, kind: str, values: Sequence[float]) -> None:
    """Choose, train and keep what `elsewhere` gives."""
    runs.artifact(elsewhere, {"profile": profile, "kind": kind, "values": list(values)})


def measured(profile: str, kind: str, method: str, values: Sequence[float], below: Sequence[float]) -> list[dict]:
    """One row per world, of its first network: FA, RA, TA, MIA, "gap" to Retrain, and `knowledge` of the forget
    samples; of one class, of test images of it.

    kind: "random", or one of `elsewhere`, whose values are `below`. method: as `named`, at the world's own value, or
    "original", "retrain" or "retrain again", at none.
    """
    setting = PROFILES[profile]
    given = problem(setting, setting.seeds)
    if kind == "random":
        retrained = first_of(profile, "retrain")
    else:
        stored = runs.artifact(elsewhere, {"profile": profile, "kind": kind, "values": list(below)})
        given = problem(setting, setting.seeds, stored["chosen"])
        retrained = unpacked(stored, "retrain", len(given.seeds))
    originals = first_of(profile, "original")
    if method in ("original", "retrain"):
        models = {"original": originals, "retrain": retrained}[method]
    elif method == "retrain again":
        models = first_of(profile, method)
    else:
        models = forgotten(setting, originals, given, named(profile, method, given, originals), values)
    asked = _of_class(given) if kind == "one class" else given.take(given.forget)
    told, targets = (measures.report(measures.outputs(m, given), given.seeds) for m in (models, retrained))
    known = knowledge(models, originals, retrained, given, asked)
    return [
        {"kind": kind, "method": method, "seed": seed, "gap": avg_gap(own, target), **own, **more}
        for seed, own, target, more in zip(given.seeds, told, targets, known, strict=True)
    ]


def _of_class(given: Problem) -> tuple[Tensor, Tensor]:
    """As many test images for each world, of the class that it forgets."""
    images, labels = given.test
    found = [(labels == seed % 10).nonzero()[:, 0] for seed in given.seeds]
    picked = torch.stack([one[: min(map(len, found))] for one in found])
    return images[picked], labels[picked]
