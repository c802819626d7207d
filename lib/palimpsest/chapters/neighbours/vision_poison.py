"""Corrective unlearning in small worlds: the forget set is poisoned, and a method is told half of it, or all."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from palimpsest import runs, training
from palimpsest.chapters.neighbours.vision_stress import forgotten
from palimpsest.chapters.neighbours.vision_worlds import PROFILES, firsts, packed, problem, unpacked
from palimpsest.chapters.unlearning_quantised.arms import METHODS
from palimpsest.chapters.unlearning_quantised.cohort import Problem
from palimpsest.training import seeds as draws
from palimpsest.unlearning.vision.corrective import corrected_accuracy, poisoned, triggered

TARGET = 0
"""The label that the poison has."""
KNOWN = ("half", "all")


def told(profile: str, known: str) -> Problem:
    """The poisoned worlds, with the known part of the poison as the forget set."""
    setting = PROFILES[profile]
    clean = problem(setting, setting.seeds)
    whole = clean.forget
    if known == "half":
        count = whole.shape[1] // 2
        orders = [torch.randperm(whole.shape[1], generator=draws.generator(s, "known")) for s in clean.seeds]
        whole = whole.gather(1, torch.stack(orders)[:, :count]).sort(1).values
    given = problem(setting, setting.seeds, whole)
    x, y = poisoned(clean.x, clean.y, clean.forget, TARGET)
    return Problem(x, y, given.forget, given.retain, given.test, given.validation, given.seeds)


def poison(profile: str) -> dict[str, Tensor]:
    """Networks, `packed`: "original" learned the poison; "half" and "all" are Retrain without that part."""
    setting, found = PROFILES[profile], {}
    for kind in ("original", *KNOWN):
        given = told(profile, "all" if kind == "original" else kind)
        x, y = (given.x, given.y) if kind == "original" else given.take(given.retain)
        models = firsts(setting, x, y, given.seeds)
        found |= packed(kind, models)
    return found


def settled(profile: str) -> None:
    """Train and keep what `poison` gives."""
    runs.artifact(poison, {"profile": profile})


def networks(profile: str, kind: str) -> list[nn.Module]:
    """Of `poison`, from the cache or trained now."""
    return unpacked(runs.artifact(poison, {"profile": profile}), kind, len(PROFILES[profile].seeds))


def corrected(profile: str, known: str, method: str, values: Sequence[float]) -> list[dict]:
    """One row per world: "corrected" accuracy on triggered test images and "TA" on the clean ones, in [0, 1].

    method: one of chapters 2 and 3 at the world's own value, "original", or "retrain" without the known part.
    """
    given = told(profile, known)
    if method == "retrain":
        models = networks(profile, known)
    else:
        models = networks(profile, "original")
        if method != "original":
            models = forgotten(PROFILES[profile], models, given, METHODS[method], values)
    images, labels = given.test
    right = corrected_accuracy(training.logits(models, triggered(images)), labels, TARGET)
    clean = training.accuracy(models, images, labels)
    return [
        {"method": method, "known": known, "seed": seed, "corrected": own, "TA": other}
        for seed, own, other in zip(given.seeds, right, clean, strict=True)
    ]
