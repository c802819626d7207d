"""The cohorts of the JSCDS experiment: data with wrong labels, scorers, signals, subsets, networks on subsets.

A *cohort* is a group of seeds under one label condition, trained in lockstep. Each seed draws its own training images
and wrong labels, trains a scorer on everything, reads every signal off it, lets every method choose a subset of one
size, and trains a network on each subset from the start that its scorer had. What differs between two arms of a seed
is the subset and nothing else, so arms are compared within seeds.

The miniature is made for memorising: a wrong label harms only a network that learns it. A pilot on seeds 900 to 905
compared networks, numbers of images and epochs. ResNet-18-slim would have cost four times as much per image as three
convolutions (3,500 against 14,000 images a second on a core). With 400 images those fit all of the labels, right and
wrong, in 30 epochs of batches of 32, at step sizes 0.03, 0.1 and 0.3; at 0.03 they were half a point to a point worse
in every arm, so the grid has the other two.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from palimpsest import data, selection, training
from palimpsest.chapters.jscds import networks
from palimpsest.chapters.jscds.networks import CONV3, CONV3_HALF
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


CLEAN, NOISY, NOISIER = Condition(), Condition("symmetric", 0.2), Condition("symmetric", 0.4)
NOISES = {"symmetric": data.symmetric_noise, "adjacent": data.adjacent_noise}
CONDITIONS = {c.name: c for c in (CLEAN, *(Condition(noise, rate) for noise in NOISES for rate in (0.2, 0.4)))}
"""Name in rows and tables -> condition."""


@dataclass(frozen=True)
class Way:
    """A method of the chapter: what it means to `selection.select`, and the vectors [N, D] it reads: of which `space`
    of which `scorer`. A method with other `again` draws other random numbers."""

    arguments: dict
    space: Literal["penultimate", "logits"] = "penultimate"
    scorer: Literal["trained", "fresh head", "early", "proxy"] = "trained"
    again: bool = False


METHODS = {
    "jscds": Way({"method": "jscds"}),
    "early jscds": Way({"method": "jscds"}, scorer="early"),
    "proxy jscds": Way({"method": "jscds"}, scorer="proxy"),
    "L2 near-mean": Way({"method": "jscds", "divergence": "l2"}),
    "successor code": Way({"method": "jscds", "preset": "successor_code"}, "logits", "fresh head"),
    "farthest, trained head": Way({"method": "jscds", "preset": "successor_code"}, "logits"),
    "random": Way({"method": "random"}),
    "random again": Way({"method": "random"}, again=True),
    "moderate": Way({"method": "moderate"}),
    "herding": Way({"method": "herding"}),
    "k-center": Way({"method": "k_center"}),
    "el2n": Way({"method": "el2n"}),
    "grand": Way({"method": "grand"}),
    "forgetting": Way({"method": "forgetting"}),
    "ccs": Way({"method": "ccs"}),
    "low-loss": Way({"method": "low_loss"}),
    "cleanlab": Way({"method": "cleanlab"}),
}
"""Name in rows and tables -> method. "early jscds" reads the network of an early epoch, "proxy jscds" a smaller one;
"farthest, trained head" is the successor's rule with the head that its code leaves untrained."""

RIVALS = tuple(name for name, way in METHODS.items() if way.arguments["method"] != "jscds" and not way.again)


@dataclass(frozen=True)
class Setting:
    """Everything that a cohort depends on besides its condition.

    Counts are images, balanced over the classes. Scorers are trained with step size `scorer_lr`; for the arms that
    are judged each value of `lr_grid` is tried. `early_epoch` is when EL2N, GraNd and "early jscds" look.
    """

    samples: int
    validation: int
    test: int
    epochs: int
    seeds: tuple[int, ...]
    conditions: tuple[str, ...]
    lr_grid: tuple[float, ...] = (0.1, 0.3)
    scorer_lr: float = 0.1
    early_epoch: int = 3
    architecture: str = CONV3
    proxy: str = CONV3_HALF
    dataset: str = "fashion-mnist"
    batch_size: int = 32

    def recipe(self, lr: float) -> training.Recipe:
        return training.Recipe(self.epochs, lr, self.batch_size)


PROFILES = {
    "smoke": Setting(200, 50, 50, 2, (0, 1, 2), (CLEAN.name, NOISY.name), early_epoch=1),
    "ci": Setting(400, 1000, 4000, 30, tuple(range(300, 312)), (CLEAN.name, NOISY.name, NOISIER.name)),
    "study": Setting(
        *(10_000, 2000, 10_000, 60, tuple(range(400, 410))),
        (CLEAN.name, NOISY.name, NOISIER.name),
        lr_grid=(0.05, 0.1),
        early_epoch=6,
        architecture="resnet20",
        proxy="resnet18-slim",
        dataset="cifar10",
        batch_size=128,
    ),
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

    def __init__(self, setting: Setting, condition: Condition, seeds: Iterable[int]):
        self.setting, self.condition, self.seeds = setting, condition, list(seeds)
        self.draws = [draw(setting, condition, seed) for seed in self.seeds]
        self.x = torch.stack([d.train.pixels() for d in self.draws])
        self.y = torch.stack([d.labels for d in self.draws])
        self._predicted: dict[str, tuple[Tensor, Tensor]] = {}

    def starts(self, name: str = "first") -> list[int]:
        """A seed of its own for the weights and the batches that begin there, one per seed."""
        return [seeds.derived(seed, "start", name) for seed in self.seeds]

    def networks(self, start: str = "first", architecture: str | None = None) -> list[nn.Module]:
        """Untrained networks, one per seed; another `start` gives other weights."""
        shape = {"channels": self.x.shape[2], "classes": len(dataset(self.setting.dataset).classes)}
        name = architecture or self.setting.architecture
        return [networks.build(name, **shape, seed=seed) for seed in self.starts(start)]

    def _train_scorers(self, start: str) -> tuple[list[nn.Module], list[nn.Module], training.History]:
        """Networks trained on everything, copies of them at the early epoch, and what training saw."""
        models, early = self.networks(start), self.networks(start)

        def keep(epoch: int) -> None:
            if epoch == self.setting.early_epoch:
                for model, copy in zip(models, early, strict=True):
                    copy.load_state_dict(model.state_dict())

        recipe = self.setting.recipe(self.setting.scorer_lr)
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

    @cached_property
    def proxies(self) -> list[nn.Module]:
        """Scorers of the smaller architecture, trained as the others are."""
        models = self.networks("proxy", self.setting.proxy)
        recipe = self.setting.recipe(self.setting.scorer_lr)
        training.fit(models, self.x, self.y, recipe, seeds=self.starts("proxy"))
        return models

    def predicted(self, scorer: str) -> tuple[Tensor, Tensor]:
        """Embeddings [K, N, D] and logits [K, N, C] of the training images under the scorers that `Way` names.

        The fresh head is our reading of the successor's code, where the loading of the trained head is
        commented out: the trained body under an untrained last layer.
        """
        if scorer not in self._predicted:
            if scorer == "fresh head":
                features = self.predicted("trained")[0]
                heads = [model.head for model in self.networks("fresh head")]
                found = features, torch.stack([h(f).detach() for h, f in zip(heads, features, strict=True)])
            else:
                models = {
                    "trained": lambda: self.scorers[0],
                    "early": lambda: self.scorers[1],
                    "proxy": lambda: self.proxies,
                }[scorer]()
                found = training.predict(models, self.x)
            self._predicted[scorer] = found
        return self._predicted[scorer]

    def cross_fitted(self) -> Tensor:
        """Class probabilities from two-fold cross-fitting, [K, N, classes]: cleanlab's input."""
        order = torch.stack(
            [torch.randperm(self.x.shape[1], generator=seeds.generator(seed, "folds")) for seed in self.seeds]
        )
        folds = order.tensor_split(2, dim=1)
        out = torch.empty(*self.y.shape, len(dataset(self.setting.dataset).classes))
        for fold, rest in (folds, folds[::-1]):
            models = self.train_on(rest, self.setting.recipe(self.setting.scorer_lr))
            rows = torch.arange(len(self.seeds))[:, None]
            out[rows, fold] = training.predict(models, self.x[rows, fold])[1].softmax(2)
        return out

    def signals(self, needed: set[str]) -> list[selection.Signals]:
        """The fields of `Signals` that are `needed`, read off training runs on all the data; one record per seed."""
        (_, early, history), found = self.scorers, [{} for _ in self.seeds]
        if "early_logits" in needed:
            both = [self.predicted("early")[1], training.predict(self.other_scorers[1], self.x)[1]]
        probabilities = self.cross_fitted() if "out_of_sample_probs" in needed else None
        for k, fields in enumerate(found):
            if "logits" in needed:
                fields["logits"] = self.predicted("trained")[1][k]
            if "early_logits" in needed:
                fields["early_logits"] = torch.stack([logits[k] for logits in both])
            if "grad_norms" in needed:
                fields["grad_norms"] = selection.grad_norms(early[k], self.x[k], self.y[k], chunk=125)[None]
            if "forgetting" in needed:
                fields["forgetting"] = selection.forgetting_events(history.correct[:, k])
            if probabilities is not None:
                fields["out_of_sample_probs"] = probabilities[k]
        return [selection.Signals(**fields) for fields in found]

    def select(self, method: str, fraction: float, signals: list[selection.Signals]) -> Tensor:
        """The kept indices of every seed, [K, n].

        Wrong labels shift the class counts, so the class budgets of two seeds may add up to totals that differ
        by a few samples. Lockstep wants one n: the larger subsets lose as many samples at random.
        """
        way = METHODS[method]
        vectors = self.predicted(way.scorer)[way.space == "logits"]
        draws = [seeds.derived(seed, "again") if way.again else seed for seed in self.seeds]
        kept = [
            selection.select(v, y, fraction, seed=seed, signals=s, **way.arguments)
            for v, y, seed, s in zip(vectors, self.y, draws, signals, strict=True)
        ]
        n = min(len(indices) for indices in kept)
        return torch.stack(
            [
                indices[torch.randperm(len(indices), generator=seeds.generator(seed, "one size"))[:n]].sort().values
                for indices, seed in zip(kept, self.seeds, strict=True)
            ]
        )

    def train_on(self, kept: Tensor, recipe: training.Recipe, start: str = "first") -> list[nn.Module]:
        """Networks from a start of the cohort, trained on the samples kept, [K, n]."""
        models = self.networks(start)
        rows = torch.arange(len(self.seeds))[:, None]
        training.fit(models, self.x[rows, kept], self.y[rows, kept], recipe, seeds=self.starts(start))
        return models
