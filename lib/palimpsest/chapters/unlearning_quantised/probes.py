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
from palimpsest.chapters.unlearning_quantised.arms import FIXED, HEADLINE, METHODS, REFERENCES
from palimpsest.chapters.unlearning_quantised.cohort import Cohort
from palimpsest.chapters.unlearning_quantised.experiment import forget, run_seeds
from palimpsest.kernels import softmax_entropy
from palimpsest.nets.modes import evaluation
from palimpsest.nets.quantised import hold_steps
from palimpsest.nets.quantised import steps as quantiser_steps
from palimpsest.unlearning.vision import Method, QMul
from palimpsest.unlearning.vision.labels import most_similar, random_wrong
from palimpsest.unlearning.vision.relabel import injected
from palimpsest.unlearning.vision.task import Gradients, Task, cross_entropy

DRAWS = 6
"""Draws of the labels and of the batches by which noise is estimated."""

WATCHED = {"cosine", "null", "by_forget", "by_retain", "balance"}

STEP_SIZES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 1))
"""Step sizes η of the first-order plot, from 10⁻⁶ to 1."""


def table(probe: Callable, configs: list[dict], *, show: str) -> pd.DataFrame:
    """The rows of a probe for every configuration, computed once."""
    return pd.DataFrame(chain.from_iterable(runs.run_all(probe, configs, show=show)))


def _task(cohort: Cohort) -> Task:
    """The cohort's originals with nothing done to them yet, in float64; they draw as `experiment.forget` does."""
    problem, setting = cohort.problem(), cohort.setting
    return Task(
        [model.double() for model in copy.deepcopy(cohort.load("original"))],
        problem.x.double(),
        problem.y,
        problem.forget,
        problem.retain,
        seeds=run_seeds(problem.seeds),
        lr=torch.ones(len(problem.seeds), device=problem.y.device),
        epochs=1,
        batch_size=setting.unlearn_batch,
        retain_samples=setting.retain_samples,
    )


def _flat(task: Task, gradients: Gradients) -> Tensor:
    """[K, P] the gradients of each network in one row."""
    return torch.cat([task.split(g).flatten(1) for g in gradients], 1)


def noise(profile: str, precision: str) -> list[dict]:
    """Gradients of four forget losses at the original, over `DRAWS` draws of batches and, for random labels, of
    labels; in float64 and evaluation mode. One row per loss and seed:

    noise: tr Cov(g) / ‖E g‖² of the gradient g of a batch; label_noise: the same of the whole forget set's gradient,
    which varies with the labels alone. The square of the mean is estimated without bias. cosine, G_f, G_r: the mean
    gradient against that of the retain set, and Q-MUL's sums of norms tensor by tensor.
    """
    cohort = Cohort.named(profile, precision, HEADLINE[1])
    task = _task(cohort)
    truth = task.labels(task.forget.T)
    similar = most_similar(task.evaluate(task.images(task.forget.T)).softmax(-1), truth)
    kept = [
        task.gradients(cross_entropy(task.net(task.images(batch)), task.labels(batch))) for batch in _evaluated(task)
    ]
    g_r = [torch.stack(parts).mean(0) for parts in zip(*kept, strict=True)]
    losses: dict[str, Callable[[int], Callable]] = {
        "random labels": lambda draw: _on_labels(injected(task, random_wrong(task, truth, draw))),
        "similar labels": lambda draw: _on_labels(injected(task, similar)),
        "entropy": lambda draw: lambda z, batch: -softmax_entropy(z.flatten(0, 1)).view(batch.shape).mean(0),
        "KL(u, p)": lambda draw: lambda z, batch: -z.log_softmax(-1).mean((0, 2)),
    }
    rows = []
    for name, at in losses.items():
        found = []  # [DRAWS] of [batches, K, P]
        for draw in range(DRAWS):
            loss, parts = at(draw), []
            for batch in task.batches(task.forget, draw):
                parts.append(_flat(task, task.gradients(loss(task.net(task.images(batch)), batch))))
            found.append(torch.stack(parts))
        own = torch.stack(found)
        whole = own.mean(1)
        mean = [part.view_as(p) for part, p in zip(_parts(task, whole.mean(0)), task.parameters, strict=True)]
        cosine = task.dot(mean, g_r) / (task.dot(mean, mean) * task.dot(g_r, g_r)).sqrt()
        spread, label_spread = (relative_variance(g) for g in (own.flatten(0, 1), whole))
        columns = {"noise": spread, "label_noise": label_spread, "cosine": cosine}
        columns |= {"G_f": task.norms(mean), "G_r": task.norms(g_r)}
        rows += [
            {"precision": precision, "loss": name, "seed": seed, **{c: v[k].item() for c, v in columns.items()}}
            for k, seed in enumerate(cohort.seeds)
        ]
    return rows


def _evaluated(task: Task) -> Iterator[Tensor]:
    """All retain batches; the network stays in evaluation mode from here on."""
    task.net.eval()
    yield from task.batches(task.retain, 0)


def _on_labels(labels: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, batch: cross_entropy(z, labels(batch))


def _parts(task: Task, flat: Tensor) -> list[Tensor]:
    """`_flat` undone: [K, P] -> the parameters' gradients."""
    sizes = [p.numel() // task.networks for p in task.parameters]
    return [part.flatten() for part in flat.split(sizes, 1)]


def relative_variance(gradients: Tensor) -> Tensor:
    """tr Cov(g) / ‖E g‖² of each network, [K], from n draws of its gradient, [n, K, P].

    E ‖ḡ‖² = ‖E g‖² + tr Cov(g) / n, which is taken off; the estimate of ‖E g‖² stays above a thousandth of ‖ḡ‖².
    """
    n, mean = len(gradients), gradients.mean(0)
    variance = (gradients - mean).square().sum((0, 2)) / (n - 1)
    square = mean.square().sum(1)
    return variance / torch.maximum(square - variance / n, square / 1000)


def injected_labels(profile: str, method: str, values: list[float]) -> list[dict]:
    """How many forget samples get the label that was injected: one row per seed, shares in [0, 1].

    `method` is a key of `arms.FIXED`, with its own wrong labels, or another method, which is asked for the labels
    that random label injected and it never saw. "agreement" is its share, "of_retrain" that of Retrain, which saw
    none of them either.
    """
    cohort = Cohort.named(profile, *HEADLINE)
    task, every = _task(cohort), list(range(len(values)))
    truth = task.labels(task.forget.T)
    wrong = random_wrong(task, truth, 0)
    if method == "Q-MUL":
        wrong = most_similar(task.evaluate(task.images(task.forget.T)).softmax(-1), truth)
    models, _ = forget(cohort, method, FIXED.get(method) or METHODS[method], every, values)
    x = cohort.problem().take(cohort.forget)[0]
    shares = [
        (z.argmax(2) == wrong.T).double().mean(1).tolist()
        for z in (training.logits(models, x), training.logits(cohort.load("retrain"), x))
    ]
    return [
        {"method": method, "seed": seed, "agreement": own, "of_retrain": other}
        for seed, own, other in zip(cohort.seeds, *shares, strict=True)
    ]


def quirks(profile: str, precision: str) -> list[dict]:
    """What the released code's relabelling gives at the original, one row per seed: the share of forget samples that
    get the intended label, and the share that get their own true label."""
    cohort = Cohort.named(profile, precision, HEADLINE[1])
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
    """Q-MUL, and after each epoch a look at pairs of batches, without a step, in evaluation mode."""

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        yield from super().epoch(task, epoch)
        weights = [row for row in task.log if "weight_f" in row][-1]
        weight_f, weight_r = (torch.tensor(weights[name], device=task.y.device) for name in ("weight_f", "weight_r"))
        truth = task.labels(task.forget.T)
        labels = injected(task, most_similar(task.evaluate(task.images(task.forget.T)).softmax(-1), truth))
        with evaluation(task.net):
            forgets, retains = (
                [task.gradients(cross_entropy(task.net(task.images(b)), of(b))) for b in batches]
                for of, batches in (
                    (labels, task.batches(task.forget, epoch)),
                    (task.labels, task.retained(epoch)),
                )
            )
        G_f, G_r = (torch.stack([task.norms(g) for g in found]).mean(0) for found in (forgets, retains))
        task.record(epoch, balance=(weight_f * G_f / (weight_r * G_r)).log())
        for i, g_r in enumerate(retains):
            g_f, other = forgets[i % len(forgets)], retains[(i + 1) % len(retains)]
            dot, square = task.dot(g_f, g_r), task.dot(g_r, g_r)
            task.record(
                epoch,
                cosine=dot / (task.dot(g_f, g_f) * square).sqrt(),
                null=task.dot(other, g_r) / (task.dot(other, other) * square).sqrt(),
                # The change of the retain loss per step size, to first order: what the forget part adds, and its own.
                by_forget=-weight_f * dot,
                by_retain=-weight_r * square,
            )


def conflict(profile: str, precision: str, values: list[float]) -> list[dict]:
    """Along a Q-MUL run at one step size per seed: the angle between batch gradients, with two retain batches as its
    null, one row per pair and seed; and "balance", ln (w_f G_f / w_r G_r), one row per epoch and seed."""
    cohort = Cohort.named(profile, precision, HEADLINE[1])
    _, done = forget(cohort, "Q-MUL", _Watched(), list(range(len(values))), values)
    return [
        {"precision": precision, "seed": seed, "epoch": row["epoch"], **{n: row[n][k] for n in row if n in WATCHED}}
        for row in done.log
        if WATCHED & row.keys()
        for k, seed in enumerate(cohort.seeds)
    ]


@dataclass(frozen=True)
class _Followed(Method):
    """`method`, and a look at all forget and all retain samples before every other step and at the end."""

    method: Method

    def begin(self, task: Task) -> None:
        self.method.begin(task)

    def epoch(self, task: Task, epoch: int) -> Iterator[None]:
        for step, _ in enumerate(self.method.epoch(task, epoch)):
            if step % 2 == 0:
                self._look(task, epoch)
            yield
        if epoch == task.epochs - 1:
            self._look(task, epoch)

    def _look(self, task: Task, epoch: int) -> None:
        forget, retain = (task.evaluate(task.images(part.T)) for part in (task.forget, task.retain))
        entropy = softmax_entropy(forget.flatten(0, 1)).view(forget.shape[:2]).mean(0)
        task.record(epoch, entropy=entropy, retain_loss=cross_entropy(retain, task.labels(task.retain.T)))


def along(profile: str, precision: str, method: str, values: list[float]) -> list[dict]:
    """The course of a run: mean entropy on the forget set and loss on the whole retain set, in nats, every other
    step; one row per look and seed."""
    cohort = Cohort.named(profile, precision, HEADLINE[1])
    _, done = forget(cohort, method, _Followed(METHODS[method]), list(range(len(values))), values)
    looks = [row for row in done.log if "retain_loss" in row]
    return [
        {"precision": precision, "method": method, "seed": seed, "look": i}
        | {name: row[name][k] for name in ("entropy", "retain_loss")}
        for i, row in enumerate(looks)
        for k, seed in enumerate(cohort.seeds)
    ]


def coefficients(profile: str, precision: str) -> list[dict]:
    """How much of the first-order change of the retain loss is left on other batches, at the original in float64.

    For every retain batch i that the entropy gradient g_f is projected off, and every other one j: ⟨g_r(j), g_f⟩ and
    ⟨g_r(j), g_f⊥(i)⟩. One row per seed: root mean squares "plain" and "projected" over the pairs.
    """
    cohort = Cohort.named(profile, precision, HEADLINE[1])
    task = _task(cohort)
    retains = [
        _flat(task, task.gradients(cross_entropy(task.net(task.images(b)), task.labels(b)))) for b in _evaluated(task)
    ]
    g_r = torch.stack(retains)  # [batches, K, P]
    z = task.net(task.images(next(task.batches(task.forget, 0))))
    g_f = _flat(task, task.gradients(-softmax_entropy(z.flatten(0, 1)).view(z.shape[:2]).mean(0)))
    gram, on_f = torch.einsum("ikp,jkp->ijk", g_r, g_r), torch.einsum("ikp,kp->ik", g_r, g_f)
    share = on_f / gram.diagonal().T  # c of each batch i
    left = on_f[None] - share[:, None] * gram  # [i, j, K]
    others = ~torch.eye(len(g_r), dtype=torch.bool, device=g_r.device)
    plain, projected = on_f.square().mean(0).sqrt(), left[others].square().mean(0).sqrt()
    return [
        {"precision": precision, "seed": seed, "plain": plain[k].item(), "projected": projected[k].item()}
        for k, seed in enumerate(cohort.seeds)
    ]


def first_order(profile: str, precision: str) -> list[dict]:
    """The change of the retain loss by one step along −g_f or −g_f⊥, over step sizes, in float64.

    One row per direction, step size, seed and batch: "same" is the batch that g_r was taken on, "other" another one.
    Direction "momentum" is the sum that momentum 0.9 has gathered after five projected steps, which is no longer
    orthogonal to the present g_r. Batch norm uses its running statistics, so that the loss is a function of the
    weights alone.
    """
    cohort = Cohort.named(profile, precision, HEADLINE[1])
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
    cohort = Cohort.named(profile, *HEADLINE)
    problem = cohort.problem()
    if method in REFERENCES:
        models = cohort.load(method)[:1]
    else:
        models, _ = forget(cohort, method, METHODS[method], [0], [value])
    features = training.predict(models, problem.x[:1])[0][0].cpu().numpy()
    points = PCA(2, svd_solver="full").fit_transform(features)
    forgotten = torch.zeros(len(points), dtype=torch.bool)
    forgotten[problem.forget[0].cpu()] = True
    rows = zip(points.tolist(), problem.y[0].tolist(), forgotten.tolist(), strict=True)
    return [{"network": method, "x": x, "y": y, "label": label, "forgotten": f} for (x, y), label, f in rows]
