"""The cohorts of the unlearning experiment: data, forget sets, originals and retrained networks.

A *cohort* is the seeds of a profile at one precision. Each seed draws its own training images and its own forget set.
The *original* is trained on all of them until it has memorised them, *Retrain* on the retain set alone, from the same
start and with the same schedule; *Retrain again* from another start and with other batches. A quantised network
starts from the float one that saw the same data.

Methods are tuned on images set aside from the training pool, and judged on test images.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

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
    REFERENCES,
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
    """The images that methods are tuned on: indices into the training split that no seed trains on."""
    labels = dataset(name).train.labels
    return data.class_balanced_draw(labels, count // (int(labels.max()) + 1), seeds.generator(0, "validation images"))


@dataclass(frozen=True, eq=False)
class Problem:
    """What K networks are to forget and are measured on: images x [K, N, C, H, W] with labels y [K, N], indices
    forget [K, F] and retain [K, R], images that no network was trained on, for judging (`test`) and for tuning
    (`validation`), [M, C, H, W] with labels [M], and one seed per network."""

    x: Tensor
    y: Tensor
    forget: Tensor
    retain: Tensor
    test: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    seeds: list[int]

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images [K, n, C, H, W] and labels [K, n] of network k at indices[k]; indices is [K, n]."""
        rows = torch.arange(len(self.y), device=self.y.device)[:, None]
        return self.x[rows, indices], self.y[rows, indices]

    def of(self, networks: list[int]) -> "Problem":
        """The problem of these networks, in this order; one may come more than once."""
        parts = [part[networks] for part in (self.x, self.y, self.forget, self.retain)]
        return Problem(*parts, self.test, self.validation, [self.seeds[k] for k in networks])


@dataclass(frozen=True)
class Cohort:
    """The seeds of a setting at one precision, with one forget set. `only`: these seeds, not all."""

    setting: Setting
    precision: Precision
    forget_set: ForgetSet
    only: tuple[int, ...] | None = None

    @classmethod
    def named(cls, profile: str, precision: str, forget_set: str, only: Sequence[int] | None = None) -> "Cohort":
        """The cohort that a configuration names; ValueError for a name that is not known."""
        for argument, name, known in (
            ("precision", precision, PRECISIONS),
            ("forget_set", forget_set, FORGET_SETS),
        ):
            if name not in known:
                raise ValueError(f"{argument}: got {name!r}, want one of {tuple(known)}")
        only = None if only is None else tuple(only)
        return cls(choose(profile, PROFILES), PRECISIONS[precision], FORGET_SETS[forget_set], only)

    @property
    def seeds(self) -> list[int]:
        return list(self.only or self.setting.seeds)

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
        """Images [M, C, H, W] and labels [M] that claims are judged on."""
        setting, source = self.setting, dataset(self.setting.dataset)
        per_class, generator = setting.test // self.classes, seeds.generator(0, "test images")
        split = source.test.subset(data.class_balanced_draw(source.test.labels, per_class, generator))
        return split.pixels().to(device()), split.labels.to(device())

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """Images [M, C, H, W] and labels [M] that methods are tuned on."""
        split = dataset(self.setting.dataset).train.subset(held_out(self.setting.dataset, self.setting.validation))
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
            configs = [{"profile": self.setting.name, "only": part.only} for part in self.parts()]
            loss = torch.cat([runs.artifact(surprise, config)["loss"] for config in configs]).to(device())
            return loss.topk(count).indices.sort(1).values
        generators = [seeds.generator(seed, "forget set") for seed in self.seeds]
        drawn = [torch.randperm(self.y.shape[1], generator=g)[:count] for g in generators]
        return torch.stack(drawn).sort(1).values.to(device())

    @cached_property
    def retain(self) -> Tensor:
        """Everything else, [K, R]."""
        kept = torch.ones_like(self.y, dtype=torch.bool).scatter_(1, self.forget, False)
        return kept.nonzero()[:, 1].view(len(self.y), -1)

    def problem(self) -> Problem:
        return Problem(self.x, self.y, self.forget, self.retain, self.test, self.validation, self.seeds)

    def untrained(self, *again: str) -> list[nn.Module]:
        shape = {"channels": self.x.shape[2], "classes": self.classes}
        starts = [seeds.derived(seed, "weights", *again) for seed in self.seeds]
        return [nets.build(self.setting.architecture, **shape, seed=start).to(device()) for start in starts]

    def parts(self) -> list["Cohort"]:
        """The cohort in parts that train in lockstep."""
        size, own = self.setting.together, self.seeds
        return [replace(self, only=tuple(own[i : i + size])) for i in range(0, len(own), size)]

    def load(self, whose: str) -> list[nn.Module]:
        """Trained networks, one of `arms.REFERENCES` for each seed, from the cache or trained now."""
        models = self.blank()
        for i, part in enumerate(self.parts()):
            weights = runs.artifact(train, part.named_as(whose))
            for k, model in enumerate(models[i * self.setting.together :][: len(part.seeds)]):
                model.load_state_dict({name: weights[f"{k}.{name}"] for name in model.state_dict()})
        return models

    def named_as(self, whose: str) -> dict:
        """The arguments of `train`."""
        if whose not in REFERENCES:
            raise ValueError(f"whose: got {whose!r}, want one of {REFERENCES}")
        without = None if whose == "original" else self.forget_set.name
        names = {"profile": self.setting.name, "precision": self.precision.name, "without": without}
        return names | {"again": whose == "retrain again", "only": self.only}

    def blank(self) -> list[nn.Module]:
        """Networks of the cohort's architecture and precision, whose weights are to be loaded."""
        models = self.untrained()
        if self.precision.bits:
            models = [quantise(model, self.precision.bits, self.x[0, :CALIBRATION]) for model in models]
        return models


def train(profile: str, precision: str, without: str | None, again: bool, only: Sequence[int]) -> dict[str, Tensor]:
    """The networks of a cohort trained on everything, or on all but the forget set `without`, once or `again`."""
    cohort = Cohort.named(profile, precision, without or RANDOM_10.name, only)
    setting, bits, apart = cohort.setting, cohort.precision.bits, ("again",) * again
    x, y = cohort.problem().take(cohort.retain) if without else (cohort.x, cohort.y)
    if not bits:
        models = cohort.untrained(*apart)
        recipe = training.Recipe(setting.epochs, setting.lr, setting.batch_size)
    else:
        whose = "original" if without is None else "retrain again" if again else "retrain"
        float_ones = replace(cohort, precision=FLOAT).load(whose)
        models = [quantise(model, bits, x[k, :CALIBRATION]) for k, model in enumerate(float_ones)]
        recipe = training.Recipe(setting.qat_epochs, setting.qat_lr, setting.batch_size)
    order = [seeds.derived(seed, "batches", *apart) for seed in cohort.seeds]
    if not setting.resumable:
        training.fit(models, x, y, recipe, seeds=order)
    else:
        config = {"profile": profile, "precision": precision, "without": without, "again": again, "only": only}
        folder = paths.CACHE / "training" / runs.key(train, config)
        name = f"{precision}, without {without}" if without else f"{precision}, everything"
        training.fit(models, x, y, recipe, seeds=order, checkpoint=folder, show=name)
        shutil.rmtree(folder)
    return {f"{k}.{name}": value for k, model in enumerate(models) for name, value in model.state_dict().items()}


def surprise(profile: str, only: Sequence[int]) -> dict[str, Tensor]:
    """{"loss": [K, N]}: each sample's cross-entropy under a network trained on the other half of the data."""
    cohort = Cohort.named(profile, FLOAT.name, RANDOM_10.name, only)
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
