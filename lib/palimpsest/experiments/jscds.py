"""The JSCDS experiment: configuration in, rows out. The chapter and the command line call this.

A *cohort* is all seeds under one label condition, trained in lockstep. Each seed draws its own training images
and wrong labels, trains a scorer on everything (which is also the full-data arm), reads every signal off it,
lets every method choose a subset of one size, and trains a network on each subset from the start that its
full-data arm had. What differs between two arms of a seed is the subset and nothing else, so arms are compared
within seeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from palimpsest import data, nets, runs, selection, training
from palimpsest.experiments.profiles import choose

CONDITIONS = {
    "clean": (None, 0.0),
    "symmetric 10 %": (data.symmetric_noise, 0.1),
    "symmetric 20 %": (data.symmetric_noise, 0.2),
    "symmetric 40 %": (data.symmetric_noise, 0.4),
    "adjacent 10 %": (data.adjacent_noise, 0.1),
    "adjacent 20 %": (data.adjacent_noise, 0.2),
    "adjacent 40 %": (data.adjacent_noise, 0.4),
}
# On these two all methods meet; the others carry the arms of the noise claims.
COMPLETE = ("clean", "symmetric 20 %")

# What each arm's name means to `selection.select`.
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
    lr_grid: tuple[float, ...] = (0.015, 0.03, 0.06)
    early_epoch: int = 2
    tuning_seed: int = 1000
    dataset: str = "fashion-mnist"

    def recipe(self, lr: float) -> training.Recipe:
        return training.Recipe(self.epochs, lr)


PROFILES = {
    "smoke": Setting(200, 50, 50, 2, (0, 1), (0, 1), COMPLETE, lr_grid=(0.03,), early_epoch=1),
    "ci": Setting(
        800,
        1000,
        2000,
        6,
        tuple(range(10)),
        (0, 1, 2),
        (*COMPLETE, "symmetric 10 %", "symmetric 40 %", "adjacent 20 %"),
    ),
    "full": Setting(10_000, 2000, 4000, 30, (0, 1, 2), (0, 1, 2), tuple(CONDITIONS)),
}


def arms(condition: str, architecture: str) -> list[tuple[str, float, str]]:
    """(method, fraction kept, matched by) of every subset that networks are trained on.

    MobileNetV2 costs several times as much and carries the headline arm only.
    """
    if architecture == MOBILENET:
        return [("jscds", 0.5, "epochs")]
    headline = ("jscds", "random", "successor code")
    if condition not in COMPLETE:
        return [*((method, 0.5, "epochs") for method in headline), ("jscds", 0.7, "epochs")]
    everyone = [(method, 0.5, "epochs") for method in METHODS]
    shown = headline if condition == "clean" else headline[:2]
    curve = [(method, fraction, "epochs") for fraction in (0.1, 0.3, 0.7) for method in shown]
    return [*everyone, *curve, ("jscds", 0.5, "steps")]


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


def draw(setting: Setting, condition: str, seed: int) -> Draw:
    """The data of one seed, which draws the same images under every condition."""
    inject, rate = CONDITIONS[condition]
    source = dataset(setting.dataset)
    classes = len(source.classes)
    generator = torch.Generator().manual_seed(seed)
    per_class = (setting.samples + setting.validation) // classes
    pool = source.train.subset(data.class_balanced_draw(source.train.labels, per_class, generator))
    chosen = data.class_balanced_draw(pool.labels, setting.samples // classes, generator)
    held_out = torch.ones(len(pool), dtype=torch.bool)
    held_out[chosen] = False
    train = pool.subset(chosen)
    labels, wrong = train.labels, torch.zeros(len(train), dtype=torch.bool)
    if inject is not None:
        labels, wrong = inject(labels, rate, classes, generator)
    return Draw(train, labels, wrong, pool.subset(held_out.nonzero().flatten()))


@cache
def test_split(setting: Setting) -> data.Split:
    """The test images, the same for every seed: an interval is over training runs, not over test sets."""
    source = dataset(setting.dataset)
    per_class = setting.test // len(source.classes)
    return source.test.subset(
        data.class_balanced_draw(source.test.labels, per_class, torch.Generator().manual_seed(0))
    )


class Cohort:
    """The seeds of one condition: their data, scorers and signals, and training on subsets."""

    def __init__(self, setting: Setting, architecture: str, condition: str, seeds: Iterable[int], lr: float):
        self.setting, self.architecture, self.condition = setting, architecture, condition
        self.seeds, self.lr = list(seeds), lr
        self.draws = [draw(setting, condition, seed) for seed in self.seeds]
        self.x = torch.stack([d.train.pixels() for d in self.draws])
        self.y = torch.stack([d.labels for d in self.draws])

    def networks(self, shift: int = 0, copies: int = 1) -> list[nn.Module]:
        """Untrained networks, `copies` a seed; `shift` gives other starts."""
        shape = {"channels": self.x.shape[2], "classes": len(dataset(self.setting.dataset).classes)}
        return [
            nets.build(self.architecture, **shape, seed=seed + shift) for seed in self.seeds for _ in range(copies)
        ]

    def _train_scorers(self, shift: int) -> tuple[list[nn.Module], list[nn.Module], training.History]:
        """Networks trained on everything, copies of them at the early epoch, and what training saw."""
        models, early = self.networks(shift), self.networks(shift)

        def keep(epoch: int) -> None:
            if epoch == self.setting.early_epoch:
                for model, copy in zip(models, early, strict=True):
                    copy.load_state_dict(model.state_dict())

        seeds = [seed + shift for seed in self.seeds]
        recipe = self.setting.recipe(self.lr)
        history = training.fit(models, self.x, self.y, recipe, seeds=seeds, on_epoch=keep)
        return models, [model.eval() for model in early], history

    @cached_property
    def scorers(self) -> tuple[list[nn.Module], list[nn.Module], training.History]:
        return self._train_scorers(0)

    @cached_property
    def other_scorers(self) -> tuple[list[nn.Module], list[nn.Module], training.History]:
        """Scorers from other starts: EL2N averages over both, and the subsets they give show how much of a
        subset is its scorer's random start. GraNd, the dearest signal, is read off the first start alone."""
        return self._train_scorers(500)

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
        heads = [model.head for model in self.networks(900)]
        return torch.stack([head(f).detach() for head, f in zip(heads, features, strict=True)])

    def cross_fitted(self) -> Tensor:
        """Class probabilities from two-fold cross-fitting, [K, N, classes]: cleanlab's input."""
        halves = torch.stack([training.epoch_order(self.x.shape[1], seed, -1) for seed in self.seeds])
        halves = halves.tensor_split(2, dim=1)
        out = torch.empty(*self.y.shape, len(dataset(self.setting.dataset).classes))
        for fold, rest in (halves, halves[::-1]):
            models = self.train_on(rest, self.setting.recipe(self.lr))
            rows = torch.arange(len(self.seeds))[:, None]
            out[rows, fold] = training.predict(models, self.x[rows, fold])[1].softmax(2)
        return out

    def signals(self) -> list[selection.Signals]:
        """What the baselines read off training runs on all the data, one record a seed."""
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
                indices[training.epoch_order(len(indices), seed, 0)[:n]].sort().values
                for indices, seed in zip(kept, self.seeds, strict=True)
            ]
        )

    def train_on(self, kept: Tensor, recipe: training.Recipe) -> list[nn.Module]:
        """Networks from the cohort's starts, trained on the samples kept, [K, n]."""
        models = self.networks()
        rows = torch.arange(len(self.seeds))[:, None]
        training.fit(models, self.x[rows, kept], self.y[rows, kept], recipe, seeds=self.seeds)
        return models


def _signals_if_needed(cohort: Cohort, methods: set[str]) -> list[selection.Signals | None]:
    needed = any(selection.METHODS[METHODS[method]["method"]].needs for method in methods)
    return cohort.signals() if needed else [None] * len(cohort.seeds)


def overlap(a: Tensor, b: Tensor) -> float:
    """Share of `a` that is in `b`; both are index sets of one size."""
    return torch.isin(a, b).double().mean().item()


def rank_correlation(a: Tensor, b: Tensor, labels: Tensor) -> float:
    """Spearman's correlation within each class, averaged over the classes."""
    by_class = [spearmanr(a[labels == c], b[labels == c]).statistic for c in labels.unique()]
    return float(sum(by_class) / len(by_class))


def _cohort(profile: str, architecture: str, condition: str, lr: float) -> Cohort:
    setting = PROFILES[profile]
    seeds = setting.seeds if architecture == RESNET else setting.other_seeds
    return Cohort(setting, architecture, condition, seeds, lr)


def score(profile: str, architecture: str, condition: str, lr: float) -> dict:
    """Train the scorers and let every method choose. Returns `full` (test accuracies of the scorers), `kept`
    ("method fraction" -> index lists, one a seed) and, where all methods meet, `geometry` (how subsets and
    divergences relate, one record a seed)."""
    cohort = _cohort(profile, architecture, condition, lr)
    test = test_split(cohort.setting)
    plan = {(method, fraction) for method, fraction, _ in arms(condition, architecture)}
    signals = _signals_if_needed(cohort, {method for method, _ in plan})
    kept = {f"{m} {f}": cohort.select(m, f, signals) for m, f in sorted(plan)}
    result = {
        "full": training.accuracy(cohort.scorers[0], test.pixels(), test.labels),
        "kept": {name: indices.tolist() for name, indices in kept.items()},
    }
    if signals[0] is None:
        return result
    text = selection.PRESETS["paper_text"]
    features, others = (cohort.embed(s[0], text) for s in (cohort.scorers, cohort.other_scorers))
    result["geometry"] = [
        {
            "seed": seed,
            "rank correlation": {
                other: rank_correlation(
                    selection.divergence_to_centre(f, y, "jsd"),
                    selection.divergence_to_centre(f, y, other),
                    y,
                )
                for other in ("l2", "half_jeffreys")
            },
            "overlap": {
                "another start of the scorer": overlap(kept["jscds 0.5"][k], selection.select(other_f, y, 0.5)),
                **{m: overlap(kept["jscds 0.5"][k], kept[f"{m} 0.5"][k]) for m in METHODS if m != "jscds"},
            },
        }
        for k, (seed, f, other_f, y) in enumerate(zip(cohort.seeds, features, others, cohort.y, strict=True))
    ]
    return result


def train(
    profile: str,
    architecture: str,
    condition: str,
    method: str,
    fraction: float,
    matched: str,
    lr: float,
    lr_full: float,
) -> list[dict]:
    """One arm: a network for every seed on the subset that `method` chose. One row a network."""
    arguments = {"profile": profile, "architecture": architecture, "condition": condition}
    cohort = _cohort(**arguments, lr=lr)
    test = test_split(cohort.setting)
    chosen = runs.cached(score, {**arguments, "lr": lr_full})["kept"][f"{method} {fraction}"]
    kept = torch.tensor(chosen)
    recipe = cohort.setting.recipe(lr)
    if matched == "steps":
        recipe = replace(recipe, steps=recipe.total_steps(cohort.x.shape[1]))
    accuracies = training.accuracy(cohort.train_on(kept, recipe), test.pixels(), test.labels)
    return [
        {
            **{"architecture": architecture, "condition": condition, "method": method, "fraction": fraction},
            **{"matched": matched, "seed": seed, "accuracy": accuracy, "kept": kept.shape[1]},
            "wrong_kept": d.wrong[indices].double().mean().item(),
        }
        for seed, accuracy, d, indices in zip(cohort.seeds, accuracies, cohort.draws, kept, strict=True)
    ]


def tune(profile: str, architecture: str, lr: float) -> list[dict]:
    """Validation accuracy of every method at one step size: 50 % kept, clean labels, the tuning seed.

    The methods' networks share one seed and one number of samples, so they too are trained in lockstep.
    """
    setting = PROFILES[profile]
    cohort = Cohort(setting, architecture, "clean", [setting.tuning_seed], lr)
    methods = sorted({method for method, _, _ in arms("clean", architecture)})
    signals = _signals_if_needed(cohort, set(methods))
    kept = [cohort.select(method, 0.5, signals)[0] for method in methods]
    models = cohort.networks(copies=len(methods))
    x, y = (torch.stack([values[0, indices] for indices in kept]) for values in (cohort.x, cohort.y))
    training.fit(models, x, y, setting.recipe(lr), seeds=[setting.tuning_seed] * len(methods))
    validation = cohort.draws[0].validation
    accuracies = training.accuracy([*cohort.scorers[0], *models], validation.pixels(), validation.labels)
    return [
        {"architecture": architecture, "method": method, "lr": lr, "accuracy": accuracy}
        for method, accuracy in zip(["full", *methods], accuracies, strict=True)
    ]


def best_lr(tuning: pd.DataFrame) -> dict[str, dict[str, float]]:
    """architecture -> method -> the step size of highest validation accuracy; ties to the smaller."""
    ordered = tuning.sort_values(["accuracy", "lr"], ascending=[True, False])
    best = ordered.groupby(["architecture", "method"]).lr.last()
    return {architecture: best[architecture].to_dict() for architecture in best.index.unique(0)}


@dataclass(frozen=True, eq=False)
class Results:
    """The experiment's tables: `tuning`, `runs` (one row a trained network), `geometry` (one row a seed and
    complete condition), and `lrs`, the step sizes chosen."""

    tuning: pd.DataFrame
    runs: pd.DataFrame
    geometry: pd.DataFrame
    lrs: dict[str, dict[str, float]]

    def accuracies(
        self,
        method: str,
        fraction: float = 0.5,
        condition: str = "clean",
        matched: str = "epochs",
        architecture: str = RESNET,
    ) -> pd.Series:
        """Test accuracy in percent by seed, of one arm."""
        rows = self.runs.query(
            "method == @method and fraction == @fraction and condition == @condition and matched == @matched "
            "and architecture == @architecture"
        )
        if rows.empty:
            raise ValueError(f"no arm ({method}, {fraction}, {condition}, {matched}, {architecture}) was run")
        return 100 * rows.set_index("seed").accuracy.sort_index()


def run(profile: str) -> Results:
    """The whole experiment at one profile: tune, score, train. Every step is cached, so it can be stopped."""
    setting = choose(profile, PROFILES)
    grid = [{"profile": profile, "architecture": a, "lr": lr} for a in (MOBILENET, RESNET) for lr in setting.lr_grid]
    tuning = pd.DataFrame(chain.from_iterable(runs.run_all(tune, grid, show="JSCDS 1/3: step sizes")))
    lrs = best_lr(tuning)
    cohorts = [(MOBILENET, c) for c in COMPLETE] + [(RESNET, c) for c in setting.conditions]
    scoring = [{"profile": profile, "architecture": a, "condition": c, "lr": lrs[a]["full"]} for a, c in cohorts]
    scored = runs.run_all(score, scoring, show="JSCDS 2/3: scorers and subsets")
    training_jobs = [
        {
            **dict(zip(("profile", "architecture", "condition"), (profile, a, c), strict=True)),
            "method": m,
            "fraction": f,
            "matched": matched,
            "lr": lrs[a][m],
            "lr_full": lrs[a]["full"],
        }
        for a, c in cohorts
        for m, f, matched in arms(c, a)
    ]
    trained = runs.run_all(train, training_jobs, show="JSCDS 3/3: networks")
    rate = {c: r for c, (_, r) in CONDITIONS.items()}
    full = [
        {
            "architecture": a,
            "condition": c,
            "method": "full",
            "fraction": 1.0,
            "matched": "epochs",
            "seed": seed,
            "accuracy": accuracy,
            "kept": setting.samples,
            "wrong_kept": rate[c],
        }
        for (a, c), result in zip(cohorts, scored, strict=True)
        for seed, accuracy in enumerate(result["full"])
    ]
    geometry = [
        {"condition": c, **record}
        for (_, c), result in zip(cohorts, scored, strict=True)
        for record in result.get("geometry", [])
    ]
    return Results(tuning, pd.DataFrame([*full, *chain.from_iterable(trained)]), pd.json_normalize(geometry), lrs)
