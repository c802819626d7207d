"""Many small networks: worlds of a few hundred pictures in which training costs a fraction of a second.

A *world* is a seed: training images, a forget set, and `networks` originals, Retrains and Retrains again, so that
distributions over networks can be compared (KLoM), which chapter 2's one network per data set does not allow. The
networks of one world share images and forget set and differ in start and order of batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest import data, runs, training
from palimpsest.chapters.shared.profiles import choose
from palimpsest.chapters.unlearning_quantised.cohort import Problem, dataset, held_out
from palimpsest.nets import BodyAndHead
from palimpsest.training import seeds as draws
from palimpsest.unlearning.vision.datamodels import DatamodelMatching

DATASET, VALIDATION = "fashion-mnist", 1000
"""The images set aside for tuning are those of chapters 2 and 3."""


@dataclass(frozen=True)
class Setting:
    """`seeds` of the worlds; counts are images. `networks` of each kind in a world, `datamodels` beside them;
    `retain_samples` in an epoch of unlearning. `chapter`: the profile of chapters 2 and 3 whose networks are
    probed."""

    chapter: str
    seeds: tuple[int, ...]
    samples: int = 300
    forget: int = 30
    unseen: int = 400
    networks: int = 8
    datamodels: int = 32
    epochs: int = 15
    unlearn_epochs: int = 4
    unlearn_batch: int = 10
    retain_samples: int = 90


PROFILES = {
    "smoke": Setting(
        "smoke", (0, 1), 60, 6, 100, networks=2, datamodels=4, epochs=3, unlearn_epochs=1, retain_samples=20
    ),
    "ci": Setting("ci", tuple(range(400, 410))),
}


class Small(BodyAndHead):
    """Two strided convolutions on the picture at half its size: 1.3 thousand weights below a head of 2.6 thousand."""

    def __init__(self, seed: int, classes: int = 10, width: int = 8):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            layers: list[nn.Module] = [nn.AvgPool2d(2)]
            for channels, wide in ((1, width), (width, 2 * width)):
                layers += [nn.Conv2d(channels, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            self.body = nn.Sequential(*layers, nn.Flatten())
            self.head = nn.Linear(2 * width * 16, classes)


def unseen(split: data.Split, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images of `split` at the indices `among`, with their labels."""
    part = split.subset(among[:count])
    return part.pixels(), part.labels


def problem(setting: Setting, seeds: Sequence[int], chosen: Tensor | None = None) -> Problem:
    """The worlds `seeds` side by side, one network each; a seed may come more than once. `chosen`: indices [K, F] of
    other forget sets than the random ones."""
    source = dataset(DATASET)
    aside = held_out(DATASET, VALIDATION)
    free = torch.ones(len(source.train), dtype=torch.bool)
    free[aside] = False
    pool = source.train.subset(free.nonzero().flatten())
    parts = [
        pool.subset(data.class_balanced_draw(pool.labels, setting.samples // 10, draws.generator(seed, "images")))
        for seed in seeds
    ]
    x, y = torch.stack([part.pixels() for part in parts]), torch.stack([part.labels for part in parts])
    if chosen is None:
        drawn = [torch.randperm(setting.samples, generator=draws.generator(seed, "forget set")) for seed in seeds]
        chosen = torch.stack([one[: setting.forget] for one in drawn]).sort(1).values
    kept = torch.ones_like(y, dtype=torch.bool).scatter_(1, chosen, False)
    retain = kept.nonzero()[:, 1].view(len(y), -1)
    order = torch.randperm(len(source.test), generator=draws.generator(0, "worlds, test"))
    test = unseen(source.test, order, setting.unseen)
    return Problem(x, y, chosen, retain, test, unseen(source.train, aside, setting.unseen), list(seeds))


def fitted(setting: Setting, x: Tensor, y: Tensor, starts: Sequence[int]) -> list[nn.Module]:
    """Networks trained in lockstep on x [K, N, ...] with y [K, N]; starts and orders from `starts`."""
    models = [Small(draws.derived(start, "weights")) for start in starts]
    recipe = training.Recipe(setting.epochs, 0.1, 64)
    training.fit(models, x, y, recipe, seeds=[draws.derived(start, "batches") for start in starts])
    return models


def starts(seed: int, kind: str, count: int) -> list[int]:
    """Of the networks of one kind in a world; Retrain has those of the original."""
    return [draws.derived(seed, *("again",) * (kind == "retrain again"), k) for k in range(count)]


def firsts(setting: Setting, x: Tensor, y: Tensor, seeds: Sequence[int]) -> list[nn.Module]:
    """A network of each world on other data than its own, from the first start of its originals."""
    return fitted(setting, x, y, [starts(seed, "retrain", 1)[0] for seed in seeds])


def packed(kind: str, models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The weights of networks of one kind, as "KIND.K.NAME"."""
    return {f"{kind}.{k}.{n}": v for k, model in enumerate(models) for n, v in model.state_dict().items()}


def unpacked(weights: dict[str, Tensor], kind: str, count: int) -> list[nn.Module]:
    """The first `count` networks that `packed` put there."""
    models = [Small(0) for _ in range(count)]
    for k, model in enumerate(models):
        model.load_state_dict({name: weights[f"{kind}.{k}.{name}"] for name in model.state_dict()})
    return models


def world(profile: str, seed: int) -> dict[str, Tensor]:
    """The networks of a world, `packed`, and "contribution" [F, classes], what its datamodels say that the
    forget set adds to the outputs on itself."""
    setting = choose(profile, PROFILES)
    one, found = problem(setting, [seed]), {}
    for kind in ("original", "retrain", "retrain again"):
        x, y = (one.x, one.y) if kind == "original" else one.take(one.retain)
        own = starts(seed, kind, setting.networks)
        shape = (len(own), *x.shape[1:])
        models = fitted(setting, x.expand(shape), y.expand(shape[:2]), own)
        found |= packed(kind, models)
    datamodels = DatamodelMatching(networks=setting.datamodels, epochs=setting.epochs)
    added = datamodels.contribution(Small(0), one.x[0], one.y[0], one.forget[0], seed=seed, batch_size=64)
    return found | {"contribution": added}


def loaded(profile: str, seed: int, kind: str, count: int) -> list[nn.Module]:
    """The first `count` networks of that kind in a world, from the cache or trained now."""
    return unpacked(runs.artifact(world, {"profile": profile, "seed": seed}), kind, count)


def prepared(profile: str, seed: int) -> None:
    """Train and keep one world."""
    runs.artifact(world, {"profile": profile, "seed": seed})
