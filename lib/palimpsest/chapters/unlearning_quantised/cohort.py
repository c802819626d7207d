"""The cohorts of the unlearning experiment: data, forget sets, originals and retrained networks.

A *cohort* is a group of seeds trained in lockstep at one precision. Each seed draws its own training images and its
own forget set. The *original* is trained on all of them until it has memorised them, *Retrain* on the retain set
alone, with the same schedule. A quantised network starts from the float one that saw the same data.

Step sizes are tuned on a cohort of other seeds, with test images set aside from the training pool; the seeds and test
images that claims are judged on are not seen.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest import data, nets, runs, training
from palimpsest.chapters.shared.profiles import choose
from palimpsest.chapters.unlearning_quantised.arms import (
    FLOAT,
    FORGET_SETS,
    PRECISIONS,
    RANDOM_10,
    ForgetSet,
    Precision,
)
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES, Setting
from palimpsest.nets.quantised import quantise
from palimpsest.runs import paths
from palimpsest.training import seeds

CALIBRATION = 256


@cache
def dataset(name: str) -> data.Dataset:
    return data.load(name)


def device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", 0)


@cache
def held_out(name: str, count: int) -> Tensor:
    """The validation images: indices into the training split that no seed trains on."""
    labels = dataset(name).train.labels
    return data.class_balanced_draw(labels, count // (int(labels.max()) + 1), seeds.generator(0, "validation images"))


@dataclass(frozen=True, eq=False)
class Problem:
    """What K networks are to forget and are measured on: images x [K, N, C, H, W] with labels y [K, N], indices
    forget [K, F] and retain [K, R], test images [M, C, H, W] with labels [M], and one seed per network."""

    x: Tensor
    y: Tensor
    forget: Tensor
    retain: Tensor
    test: tuple[Tensor, Tensor]
    seeds: list[int]

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images [K, n, C, H, W] and labels [K, n] of network k at indices[k]; indices is [K, n]."""
        rows = torch.arange(len(self.y), device=self.y.device)[:, None]
        return self.x[rows, indices], self.y[rows, indices]

    def only(self, k: int) -> "Problem":
        """The problem of network k by itself."""
        parts = [part[k : k + 1] for part in (self.x, self.y, self.forget, self.retain)]
        return Problem(*parts, self.test, self.seeds[k : k + 1])


@dataclass(frozen=True)
class Cohort:
    """One group of seeds at one precision, with one forget set. Step sizes are chosen on group "tuning", claims are
    judged on the other. `only`: these seeds, not all of the group."""

    setting: Setting
    group: Literal["judged", "tuning"]
    precision: Precision
    forget_set: ForgetSet
    only: tuple[int, ...] | None = None

    @classmethod
    def named(
        cls, profile: str, group: str, precision: str, forget_set: str, only: Sequence[int] | None = None
    ) -> "Cohort":
        """The cohort that a configuration names; ValueError for a name that is not known."""
        named = (("precision", precision, PRECISIONS), ("forget_set", forget_set, FORGET_SETS))
        for argument, name, known in (("group", group, ("judged", "tuning")), *named):
            if name not in known:
                raise ValueError(f"{argument}: got {name!r}, want one of {tuple(known)}")
        only = None if only is None else tuple(only)
        return cls(choose(profile, PROFILES), group, PRECISIONS[precision], FORGET_SETS[forget_set], only)

    @property
    def seeds(self) -> list[int]:
        return list(self.only or (self.setting.tuning_seeds if self.group == "tuning" else self.setting.seeds))

    @property
    def classes(self) -> int:
        return len(dataset(self.setting.dataset).classes)

    @cached_property
    def _parts(self) -> list[data.Split]:
        """Each seed's training images."""
        setting, source = self.setting, dataset(self.setting.dataset).train
        free = torch.ones(len(source), dtype=torch.bool)
        free[held_out(setting.dataset, setting.validation)] = False
        pool = source.subset(free.nonzero().flatten())
        generators = [seeds.generator(seed, "images") for seed in self.seeds]
        per_class = setting.samples // self.classes
        return [pool.subset(data.class_balanced_draw(pool.labels, per_class, g)) for g in generators]

    @cached_property
    def x(self) -> Tensor:
        """Training images [K, N, C, H, W]."""
        return torch.stack([part.pixels() for part in self._parts]).to(device())

    @cached_property
    def y(self) -> Tensor:
        """Their labels [K, N]."""
        return torch.stack([part.labels for part in self._parts]).to(device())

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """Images [M, C, H, W] and labels [M] that no network of the group was trained on."""
        setting, source = self.setting, dataset(self.setting.dataset)
        if self.group == "tuning":
            split = source.train.subset(held_out(setting.dataset, setting.validation))
        else:
            per_class, generator = setting.test // self.classes, seeds.generator(0, "test images")
            split = source.test.subset(data.class_balanced_draw(source.test.labels, per_class, generator))
        return split.pixels().to(device()), split.labels.to(device())

    @cached_property
    def forget(self) -> Tensor:
        """Indices of the forget sets, [K, F].

        "hardest" takes the samples whose label surprises a network most that was trained on the other half of
        the data: they had to be memorised (our reading of a worst case).
        """
        if self.forget_set.kind == "class":
            members = [
                (y == seed % self.classes).nonzero().flatten() for y, seed in zip(self.y, self.seeds, strict=True)
            ]
            return torch.stack(members)
        count = round(self.forget_set.share * self.y.shape[1])
        if self.forget_set.kind == "hardest":
            config = {"profile": self.setting.name, "group": self.group}
            return runs.artifact(surprise, config)["loss"].to(device()).topk(count).indices.sort(1).values
        generators = [seeds.generator(seed, "forget set") for seed in self.seeds]
        drawn = [torch.randperm(self.y.shape[1], generator=g)[:count] for g in generators]
        return torch.stack(drawn).sort(1).values.to(device())

    @cached_property
    def retain(self) -> Tensor:
        """Everything else, [K, R]."""
        kept = torch.ones_like(self.y, dtype=torch.bool).scatter_(1, self.forget, False)
        return kept.nonzero()[:, 1].view(len(self.y), -1)

    def problem(self, copies: int = 1) -> Problem:
        """The cohort's seeds, `copies` times over: for trying several values at once."""
        parts = [torch.cat([part] * copies) for part in (self.x, self.y, self.forget, self.retain)]
        return Problem(*parts, self.test, self.seeds * copies)

    def untrained(self) -> list[nn.Module]:
        shape = {"channels": self.x.shape[2], "classes": self.classes}
        starts = [seeds.derived(seed, "weights") for seed in self.seeds]
        return [nets.build(self.setting.architecture, **shape, seed=start).to(device()) for start in starts]

    def load(self, whose: str) -> list[nn.Module]:
        """Trained networks, from the cache or trained now: whose = "original" or "retrain"."""
        config = {"profile": self.setting.name, "group": self.group, "precision": self.precision.name}
        config["without"] = self.forget_set.name if whose == "retrain" else None
        config["only"] = self.only
        weights = runs.artifact(train, config)
        models = self.blank()
        for k, model in enumerate(models):
            own = {name: weights[f"{k}.{name}"] for name in model.state_dict()}
            model.load_state_dict(own)
        return models

    def blank(self) -> list[nn.Module]:
        """Networks of the cohort's architecture and precision, whose weights are to be loaded."""
        models = self.untrained()
        if self.precision.bits:
            models = [quantise(model, self.precision.bits, self.x[0, :CALIBRATION]) for model in models]
        return models


def train(
    profile: str, group: str, precision: str, without: str | None, only: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """The networks of a cohort trained on everything, or on all but the forget set `without`."""
    cohort = Cohort.named(profile, group, precision, without or RANDOM_10.name, only)
    setting, bits = cohort.setting, cohort.precision.bits
    x, y = cohort.problem().take(cohort.retain) if without else (cohort.x, cohort.y)
    if not bits:
        models, recipe = cohort.untrained(), training.Recipe(setting.epochs, setting.lr, setting.batch_size)
    else:
        start = replace(cohort, precision=FLOAT).load("retrain" if without else "original")
        models = [quantise(model, bits, x[k, :CALIBRATION]) for k, model in enumerate(start)]
        recipe = training.Recipe(setting.qat_epochs, setting.qat_lr, setting.batch_size)
    if not setting.resumable:
        training.fit(models, x, y, recipe, seeds=cohort.seeds)
    else:
        config = {"profile": profile, "group": group, "precision": precision, "without": without, "only": only}
        folder = paths.CACHE / "training" / runs.key(train, config)
        name = f"{precision}, without {without}" if without else f"{precision}, everything"
        training.fit(models, x, y, recipe, seeds=cohort.seeds, checkpoint=folder, show=name)
        shutil.rmtree(folder)
    return {f"{k}.{name}": value for k, model in enumerate(models) for name, value in model.state_dict().items()}


def surprise(profile: str, group: str) -> dict[str, Tensor]:
    """{"loss": [K, N]}: each sample's cross-entropy under a network trained on the other half of the data."""
    cohort = Cohort(choose(profile, PROFILES), group, FLOAT, RANDOM_10)
    setting, problem = cohort.setting, cohort.problem()
    loss = torch.empty(cohort.y.shape, device=cohort.y.device)
    generators = [seeds.generator(seed, "folds") for seed in cohort.seeds]
    order = torch.stack([torch.randperm(cohort.y.shape[1], generator=g) for g in generators]).to(device())
    recipe = training.Recipe(setting.epochs, setting.lr, setting.batch_size)
    for fold, rest in (order.tensor_split(2, 1), order.tensor_split(2, 1)[::-1]):
        models = cohort.untrained()
        training.fit(models, *problem.take(rest), recipe, seeds=cohort.seeds)
        x, y = problem.take(fold)
        found = F.cross_entropy(training.logits(models, x).flatten(0, 1), y.flatten(), reduction="none")
        loss.scatter_(1, fold, found.view_as(y))
    return {"loss": loss}
