"""The cohorts of the JSCDS experiment: data with wrong labels, scorers, signals, subsets, networks on subsets.

A *cohort* is all seeds under one label condition, trained in lockstep. Each seed draws its own training images
and wrong labels, trains a scorer on everything (which is also the full-data arm), reads every signal off it, lets
every method choose a subset of one size, and trains a network on each subset from the start that its full-data
arm had. What differs between two arms of a seed is the subset and nothing else, so arms are compared within
seeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from palimpsest import data, nets, selection, training
from palimpsest.training import seeds


@dataclass(frozen=True)
class Condition:
    """Which labels are wrong: a share `rate` of them, to any other class ("symmetric") or to a neighbouring one
    ("adjacent"); none where `noise` is None."""

    noise: Literal["symmetric", "adjacent"] | None = None
    rate: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.noise} {round(100 * self.rate)} %" if self.noise else "clean"


CLEAN, NOISY = Condition(), Condition("symmetric", 0.2)
NOISES = {"symmetric": data.symmetric_noise, "adjacent": data.adjacent_noise}
CONDITIONS = {c.name: c for c in (CLEAN, *(Condition(noise, rate) for noise in NOISES for rate in (0.1, 0.2, 0.4)))}
"""Name in rows and tables -> condition."""

COMPLETE = (CLEAN.name, NOISY.name)
"""On these two all methods meet; the others carry the arms of the noise claims."""

METHODS = {
    "jscds": {"method": "jscds", "preset": "paper_text"},
    "successor code": {"method": "jscds", "preset": "successor_code"},
    "L2 near-mean": {"method": "jscds", "divergence": "l2"},
    "half-Jeffreys near-mean": {"method": "jscds", "divergence": "half_jeffreys"},
    "random": {"method": "random"},
    "moderate": {"method": "moderate"},
    "herding": {"method": "herding"},
    "k-center": {"method": "k_center"},
    "el2n": {"method": "el2n"},
    "grand": {"method": "grand"},
    "forgetting": {"method": "forgetting"},
    "ccs": {"method": "ccs"},
    "low-loss": {"method": "low_loss"},
    "cleanlab": {"method": "cleanlab"},
}
"""The chapter's methods: name in rows and tables -> what it means to `selection.select`."""

BASELINES = tuple(name for name in METHODS if METHODS[name]["method"] != "jscds")
RESNET, MOBILENET = "resnet18-slim", "mobilenetv2-slim"


@dataclass(frozen=True)
class Setting:
    """Everything that a cohort depends on besides its condition.

    Counts are images, balanced over the classes. `seeds` are for ResNet-18-slim, `other_seeds` for
    MobileNetV2-slim. `early_epoch` is when EL2N and GraNd look. Tuning uses `tuning_seed`, which no verdict
    sees, and validation images, which no test sees.
    """

    samples: int
    validation: int
    test: int
    epochs: int
    seeds: tuple[int, ...]
    other_seeds: tuple[int, ...]
    conditions: tuple[str, ...]
    lr_grid: tuple[float, ...] = (0.01, 0.03, 0.09)
    early_epoch: int = 2
    tuning_seed: int = 1000
    dataset: str = "fashion-mnist"

    def seeds_for(self, architecture: str) -> tuple[int, ...]:
        return self.seeds if architecture == RESNET else self.other_seeds

    def recipe(self, lr: float) -> training.Recipe:
        return training.Recipe(self.epochs, lr)


PROFILES = {
    "smoke": Setting(200, 50, 50, 2, (0, 1), (0, 1), COMPLETE, lr_grid=(0.03,), early_epoch=1),
    "ci": Setting(
        800,
        1000,
        2000,
        5,
        tuple(range(30, 40)),
        (30, 31, 32),
        (*COMPLETE, "symmetric 10 %", "symmetric 40 %", "adjacent 20 %"),
    ),
    "study": Setting(10_000, 2000, 4000, 30, (0, 1, 2), (0, 1, 2), tuple(CONDITIONS)),
}


@dataclass(frozen=True, eq=False)
class Draw:
    """The images and labels of one seed. `labels` are what training sees, `wrong` marks the altered ones."""

    train: data.Split
    labels: Tensor
    wrong: Tensor
    validation: data.Split


@cache
def dataset(name: str) -> data.Dataset:
    return data.load(name)


def draw(setting: Setting, condition: Condition, seed: int) -> Draw:
    """The data of one seed, which draws the same images under every condition."""
    source = dataset(setting.dataset)
    classes = len(source.classes)
    generator = seeds.generator(seed, "images")
    per_class = (setting.samples + setting.validation) // classes
    pool = source.train.subset(data.class_balanced_draw(source.train.labels, per_class, generator))
    chosen = data.class_balanced_draw(pool.labels, setting.samples // classes, generator)
    held_out = torch.ones(len(pool), dtype=torch.bool)
    held_out[chosen] = False
    train = pool.subset(chosen)
    labels, wrong = train.labels, torch.zeros(len(train), dtype=torch.bool)
    if condition.noise:
        labels, wrong = NOISES[condition.noise](
            labels, condition.rate, classes, seeds.generator(seed, "wrong labels")
        )
    return Draw(train, labels, wrong, pool.subset(held_out.nonzero().flatten()))


@cache
def test_split(setting: Setting) -> data.Split:
    """The test images, the same for every seed: an interval is over training runs, not over test sets."""
    source = dataset(setting.dataset)
    per_class = setting.test // len(source.classes)
    return source.test.subset(
        data.class_balanced_draw(source.test.labels, per_class, seeds.generator(0, "test images"))
    )


class Cohort:
    """The seeds of one condition: their data, scorers and signals, and training on subsets."""

    def __init__(self, setting: Setting, architecture: str, condition: Condition, seeds: Iterable[int], lr: float):
        self.setting, self.architecture, self.condition = setting, architecture, condition
        self.seeds, self.lr = list(seeds), lr
        self.draws = [draw(setting, condition, seed) for seed in self.seeds]
        self.x = torch.stack([d.train.pixels() for d in self.draws])
        self.y = torch.stack([d.labels for d in self.draws])

    def starts(self, name: str = "first") -> list[int]:
        """A seed of its own for the weights and the batches that begin there, one per seed."""
        return [seeds.derived(seed, "start", name) for seed in self.seeds]

    def networks(self, start: str = "first", copies: int = 1) -> list[nn.Module]:
        """Untrained networks, `copies` per seed; another `start` gives other weights."""
        shape = {"channels": self.x.shape[2], "classes": len(dataset(self.setting.dataset).classes)}
        return [
            nets.build(self.architecture, **shape, seed=seed) for seed in self.starts(start) for _ in range(copies)
        ]

    def _train_scorers(self, start: str) -> tuple[list[nn.Module], list[nn.Module], training.History]:
        """Networks trained on everything, copies of them at the early epoch, and what training saw."""
        models, early = self.networks(start), self.networks(start)

        def keep(epoch: int) -> None:
            if epoch == self.setting.early_epoch:
                for model, copy in zip(models, early, strict=True):
                    copy.load_state_dict(model.state_dict())

        recipe = self.setting.recipe(self.lr)
        history = training.fit(models, self.x, self.y, recipe, seeds=self.starts(start), on_epoch=keep)
        return models, [model.eval() for model in early], history

    @cached_property
    def scorers(self) -> tuple[list[nn.Module], list[nn.Module], training.History]:
        return self._train_scorers("first")

    @cached_property
    def other_scorers(self) -> tuple[list[nn.Module], list[nn.Module], training.History]:
        """Scorers from other starts: EL2N averages over both, and the subsets they give show how much of a
        subset is its scorer's random start. GraNd, the dearest signal, is read off the first start alone."""
        return self._train_scorers("second")

    def embed(self, models: list[nn.Module], preset: selection.Preset) -> Tensor:
        """The vectors in which `preset` measures, [K, N, D].

        The fresh head is our reading of the successor's code, where the loading of the trained head is
        commented out: the trained body under an untrained last layer.
        """
        features, logits = training.predict(models, self.x)
        if preset.space == "penultimate":
            return features
        if preset.scorer == "trained":
            return logits
        heads = [model.head for model in self.networks("fresh head")]
        return torch.stack([head(f).detach() for head, f in zip(heads, features, strict=True)])

    def cross_fitted(self) -> Tensor:
        """Class probabilities from two-fold cross-fitting, [K, N, classes]: cleanlab's input."""
        order = torch.stack(
            [torch.randperm(self.x.shape[1], generator=seeds.generator(seed, "folds")) for seed in self.seeds]
        )
        folds = order.tensor_split(2, dim=1)
        out = torch.empty(*self.y.shape, len(dataset(self.setting.dataset).classes))
        for fold, rest in (folds, folds[::-1]):
            models = self.train_on(rest, self.setting.recipe(self.lr))
            rows = torch.arange(len(self.seeds))[:, None]
            out[rows, fold] = training.predict(models, self.x[rows, fold])[1].softmax(2)
        return out

    def signals(self) -> list[selection.Signals]:
        """What the baselines read off training runs on all the data, one record per seed."""
        (models, early, history), (_, other_early, _) = self.scorers, self.other_scorers
        logits = training.predict(models, self.x)[1]
        early_logits = [training.predict(nets_, self.x)[1] for nets_ in (early, other_early)]
        probabilities = self.cross_fitted()
        return [
            selection.Signals(
                logits=logits[k],
                early_logits=torch.stack([e[k] for e in early_logits]),
                grad_norms=selection.grad_norms(early[k], self.x[k], self.y[k], chunk=125)[None],
                forgetting=selection.forgetting_events(history.correct[:, k]),
                out_of_sample_probs=probabilities[k],
            )
            for k in range(len(self.seeds))
        ]

    def select(self, method: str, fraction: float, signals: list[selection.Signals | None]) -> Tensor:
        """The kept indices of every seed, [K, n].

        Wrong labels shift the class counts, so the class budgets of two seeds may add up to totals that differ
        by a few samples. Lockstep wants one n: the larger subsets lose as many samples at random.
        """
        arguments = METHODS[method]
        preset = selection.PRESETS[arguments.get("preset", "paper_text")]
        features = self.embed(self.scorers[0], preset)
        kept = [
            selection.select(f, y, fraction, seed=seed, signals=s, **arguments)
            for f, y, seed, s in zip(features, self.y, self.seeds, signals, strict=True)
        ]
        n = min(len(indices) for indices in kept)
        return torch.stack(
            [
                indices[torch.randperm(len(indices), generator=seeds.generator(seed, "one size"))[:n]].sort().values
                for indices, seed in zip(kept, self.seeds, strict=True)
            ]
        )

    def train_on(self, kept: Tensor, recipe: training.Recipe) -> list[nn.Module]:
        """Networks from the cohort's starts, trained on the samples kept, [K, n]."""
        models = self.networks()
        rows = torch.arange(len(self.seeds))[:, None]
        training.fit(models, self.x[rows, kept], self.y[rows, kept], recipe, seeds=self.starts())
        return models
