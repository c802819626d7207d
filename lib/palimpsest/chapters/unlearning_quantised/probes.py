"""Gradients of the two losses, looked at closely: their sizes, their angle, and what a step along them changes."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import pandas as pd
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from palimpsest import runs, training
from palimpsest.chapters.unlearning_quantised.arms import HEADLINE
from palimpsest.chapters.unlearning_quantised.cohort import Cohort
from palimpsest.chapters.unlearning_quantised.experiment import forget
from palimpsest.kernels import softmax_entropy
from palimpsest.nets.modes import evaluation
from palimpsest.nets.quantised import hold_steps
from palimpsest.nets.quantised import steps as quantiser_steps
from palimpsest.training import seeds
from palimpsest.unlearning.vision import QMul, unlearn
from palimpsest.unlearning.vision.labels import most_similar, random_wrong
from palimpsest.unlearning.vision.task import Gradients, Task, cross_entropy

STEP_SIZES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 1))
"""Step sizes η of the first-order plot, from 10⁻⁶ to 1."""


def table(probe: Callable, configs: list[dict], *, show: str) -> pd.DataFrame:
    """The rows of a probe for every configuration, computed once."""
    return pd.DataFrame(chain.from_iterable(runs.run_all(probe, configs, show=show)))


def _task(cohort: Cohort) -> Task:
    """The cohort's originals with nothing done to them yet."""
    problem, setting = cohort.problem(), cohort.setting
    ones = torch.ones(len(problem.seeds), device=problem.y.device)
    return Task(
        [model.double() for model in copy.deepcopy(cohort.load("original"))],
        problem.x.double(),
        problem.y,
        problem.forget,
        problem.retain,
        seeds=problem.seeds,
        lr=ones,
        epochs=1,
        batch_size=setting.batch_size,
    )


def _mean_gradients(task: Task, indices: Tensor, loss) -> Gradients:
    """The gradient of `loss(logits, indices)` over all of `indices` [n, K], in evaluation mode."""
    total = [torch.zeros_like(p) for p in task.parameters]
    with evaluation(task.net):
        for batch in indices.split(task.batch_size):
            gradients = task.gradients(loss(task.net(task.images(batch)), batch) * (len(batch) / len(indices)))
            total = [t + g for t, g in zip(total, gradients, strict=True)]
    return total


def geometry(profile: str, precision: str) -> list[dict]:
    """Forget gradients of four losses against the retain gradient, at the original, in float64.

    One row per loss and seed: the cosine of (g_f, g_r), the two norms, and Q-MUL's sums of norms tensor by tensor.
    """
    cohort = Cohort.named(profile, "judged", precision, HEADLINE[1])
    task = _task(cohort)
    truth = task.labels(task.forget.T)
    similar = most_similar(task.evaluate(task.images(task.forget.T)).softmax(-1), truth)
    labels = {"random labels": random_wrong(task, truth, 0), "similar labels": similar}
    place = torch.zeros_like(task.y).scatter_(
        1, task.forget, torch.arange(task.forget.shape[1], device=task.y.device).expand_as(task.forget)
    )
    columns = torch.arange(task.networks, device=task.y.device)
    losses = {
        name: lambda z, batch, wrong=wrong: cross_entropy(z, wrong[place[columns, batch], columns])
        for name, wrong in labels.items()
    } | {
        "entropy": lambda z, batch: -softmax_entropy(z.flatten(0, 1)).view(batch.shape).mean(0),
        "uniform": lambda z, batch: -z.log_softmax(-1).mean((0, 2)),
    }
    g_r = _mean_gradients(task, task.retain.T, lambda z, batch: cross_entropy(z, task.labels(batch)))
    rows = []
    for name, loss in losses.items():
        g_f = _mean_gradients(task, task.forget.T, loss)
        length_f, length_r = task.dot(g_f, g_f).sqrt(), task.dot(g_r, g_r).sqrt()
        cosine, sum_f, sum_r = task.dot(g_f, g_r) / (length_f * length_r), task.norms(g_f), task.norms(g_r)
        for k, seed in enumerate(cohort.seeds):
            values = {"cosine": cosine, "length_f": length_f, "length_r": length_r, "G_f": sum_f, "G_r": sum_r}
            row = {"precision": precision, "loss": name, "seed": seed}
            rows.append(row | {key: value[k].item() for key, value in values.items()})
    return rows


def quirks(profile: str, precision: str) -> list[dict]:
    """What the released code's relabelling gives at the original, one row per seed: the share of forget samples that
    get the intended label, and the share that get their own true label."""
    cohort = Cohort.named(profile, "judged", precision, HEADLINE[1])
    task = _task(cohort)
    truth = task.labels(task.forget.T)
    intended = most_similar(task.evaluate(task.images(task.forget.T)).softmax(-1), truth)
    given = QMul(official_quirks=True).similar(task, truth, 0)
    return [
        {
            "seed": seed,
            "intended": (given == intended)[:, k].double().mean().item(),
            "true": (given == truth)[:, k].double().mean().item(),
        }
        for k, seed in enumerate(cohort.seeds)
    ]


@dataclass(frozen=True)
class _Watched(QMul):
    """Q-MUL, and after each epoch a look at every pair of batches, without a step."""

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        yield from super().epoch(task, epoch)
        weights = [row for row in task.log if "weight_f" in row][-1]
        weight_f, weight_r = (torch.tensor(weights[name], device=task.y.device) for name in ("weight_f", "weight_r"))
        for batch, retain in task.paired(epoch):
            images, truth = task.images(batch), task.labels(batch)
            similar = most_similar(task.evaluate(images).softmax(-1), truth)
            with evaluation(task.net):
                g_f = task.gradients(cross_entropy(task.net(images), similar))
                g_r = task.gradients(cross_entropy(task.net(task.images(retain)), task.labels(retain)))
            dot, square_f, square_r = task.dot(g_f, g_r), task.dot(g_f, g_f), task.dot(g_r, g_r)
            task.record(
                epoch,
                cosine=dot / (square_f * square_r).sqrt(),
                # The change of the retain loss per step size under the weighted sum, to first order.
                retain_change=-(weight_f * dot + weight_r * square_r),
                retain_alone=-weight_r * square_r,
            )


def conflict(profile: str, precision: str, value: float) -> list[dict]:
    """The angle between the batch gradients along a Q-MUL run at step size `value`: one row per pair and seed."""
    cohort = Cohort.named(profile, "judged", precision, HEADLINE[1])
    problem, setting = cohort.problem(), cohort.setting
    done = unlearn(
        cohort.load("original"),
        problem.x,
        problem.y,
        problem.forget,
        _Watched(),
        lr=value,
        epochs=setting.unlearn_epochs,
        batch_size=setting.batch_size,
        seeds=[seeds.derived(seed, "unlearning") for seed in problem.seeds],
    )
    names = ("cosine", "retain_change", "retain_alone")
    return [
        {"precision": precision, "seed": seed, "epoch": row["epoch"], **{name: row[name][k] for name in names}}
        for row in done.log
        if "cosine" in row
        for k, seed in enumerate(cohort.seeds)
    ]


def first_order(profile: str, precision: str) -> list[dict]:
    """The change of the retain loss by one step along −g_f or −g_f⊥, over step sizes, in float64.

    One row per direction, step size, seed and batch: "same" is the batch that g_r was taken on, "other" another one.
    Direction "momentum" is the sum that momentum 0.9 has gathered after five projected steps, which is no longer
    orthogonal to the present g_r. Batch norm uses its running statistics, so that the loss is a function of the
    weights alone.
    """
    cohort = Cohort.named(profile, "judged", precision, HEADLINE[1])
    task = _task(cohort)
    task.net.eval()
    kept, forgotten = list(task.batches(task.retain, 0)), list(task.batches(task.forget, 0))
    start = [p.detach().clone() for p in task.parameters]
    held = list(quantiser_steps(task.net).values())  # the largest η can take one below 0; trainers hold them too

    def both(i: int) -> tuple[Gradients, Gradients]:
        batch = forgotten[i % len(forgotten)]
        entropy = softmax_entropy(task.net(task.images(batch)).flatten(0, 1)).view(batch.shape).mean(0)
        g_r = cross_entropy(task.net(task.images(kept[i % len(kept)])), task.labels(kept[i % len(kept)]))
        return task.gradients(-entropy), task.gradients(g_r)

    def orthogonal(g_f: Gradients, g_r: Gradients) -> Gradients:
        return [m - r for m, r in zip(task.projected(g_f, g_r, 1.0, "always", "model"), g_r, strict=True)]

    gathered = [torch.zeros_like(p) for p in start]
    for i in range(1, 6):
        g_f, g_r = both(i)
        gathered = [0.9 * m + d for m, d in zip(gathered, orthogonal(g_f, g_r), strict=True)]
    g_f, g_r = both(0)
    directions = {"g_f": g_f, "g_f orthogonal": orthogonal(g_f, g_r), "momentum": gathered}
    with torch.no_grad():

        def losses() -> dict[str, Tensor]:
            batches = {"same": kept[0], "other": kept[-1]}
            return {n: cross_entropy(task.net(task.images(b)), task.labels(b)) for n, b in batches.items()}

        before, rows = losses(), []
        for name, direction in directions.items():
            for size in STEP_SIZES:
                torch._foreach_copy_(task.parameters, torch._foreach_add(start, direction, alpha=-size))
                hold_steps(held)
                for batch, loss in losses().items():
                    change = (loss - before[batch]).tolist()
                    rows += [
                        {
                            **{"precision": precision, "direction": name, "step": size, "batch": batch},
                            **{"seed": seed, "change": value},
                        }
                        for seed, value in zip(cohort.seeds, change, strict=True)
                    ]
    return rows


def slope(sizes: list[float], changes: list[float], above: float = 1e-13) -> float:
    """The slope of ln |change| against ln η of the step sizes by least squares.

    Only changes larger than `above` count: a loss near 0.1 is a float64 mean of some hundred terms, whose rounding
    stays below 1e-14. NaN where fewer than three are left.
    """
    points = [(math.log(s), math.log(abs(c))) for s, c in zip(sizes, changes, strict=True) if abs(c) > above]
    if len(points) < 3:
        return float("nan")
    x, y = torch.tensor(points, dtype=torch.float64).T
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def plane(profile: str, method: str, value: float) -> list[dict]:
    """Two principal components of the first seed's features, one row per training sample. `method` may be
    "original" or "retrain"; each network has axes of its own."""
    cohort = Cohort.named(profile, "judged", *HEADLINE)
    problem = cohort.problem()
    models = cohort.load("retrain" if method == "retrain" else "original")[:1]
    if method not in ("original", "retrain"):
        forget(models, problem.only(0), cohort.setting, method, value)
    features = training.predict(models, problem.x[:1])[0][0].cpu().numpy()
    points = PCA(2, svd_solver="full").fit_transform(features)
    forgotten = torch.zeros(len(points), dtype=torch.bool)
    forgotten[problem.forget[0].cpu()] = True
    rows = zip(points.tolist(), problem.y[0].tolist(), forgotten.tolist(), strict=True)
    return [{"network": method, "x": x, "y": y, "label": label, "forgotten": f} for (x, y), label, f in rows]
