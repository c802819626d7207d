"""What is measured on the networks of a cohort, network by network."""

import copy
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest import training
from palimpsest.chapters.unlearning_quantised.cohort import Cohort, Problem
from palimpsest.metrics import distances, membership, predictions
from palimpsest.nets.quantised import codes
from palimpsest.training.seeds import generator

SHARES = ("FA", "RA", "TA", "MIA", "codes_changed", "max_probability", "wrong_confidence")
"""Columns that tables show in percent."""

RELEARN = training.Recipe(epochs=8, lr=0.003, batch_size=64)
"""How the forget set is trained on again: relearn time is counted in these epochs."""


@dataclass(frozen=True)
class Outputs:
    """What K networks say: logits [K, n, C] and labels [K, n] by part ("forget", "retain", "test"), and their
    features [K, n, D] of the test set, None where only predictions were stored."""

    logits: dict[str, Tensor]
    labels: dict[str, Tensor]
    features: Tensor | None = None


def outputs(models: list[nn.Module], problem: Problem) -> Outputs:
    sets = {"forget": problem.take(problem.forget), "retain": problem.take(problem.retain)}
    logits = {name: training.logits(models, x) for name, (x, _) in sets.items()}
    labels = {name: y for name, (_, y) in sets.items()}
    features, logits["test"] = training.predict(models, problem.test[0])
    labels["test"] = problem.test[1].expand(len(models), -1)
    return Outputs(logits, labels, features)


def report(found: Outputs, seeds: list[int]) -> list[dict[str, float]]:
    """FA, RA, TA and MIA of every network, as shares."""
    logits, labels = found.logits, found.labels
    right = {n: (logits[n].argmax(2) == labels[n]).double().mean(1).tolist() for n in logits}
    rows = []
    for k, seed in enumerate(seeds):
        # As many retain as test samples, as in the code released with Q-MUL.
        n = min(labels["retain"].shape[1], labels["test"].shape[1])
        arguments = []
        for name in ("retain", "test", "forget"):
            p, y = logits[name][k].double().softmax(-1).cpu(), labels[name][k].cpu()
            if name != "forget":
                drawn = torch.randperm(len(y), generator=generator(seed, "members"))[:n]
                p, y = p[drawn], y[drawn]
            arguments += [p, y]
        mia = membership.svc_confidence(*arguments)
        rows.append({"FA": right["forget"][k], "RA": right["retain"][k], "TA": right["test"][k], "MIA": mia})
    return rows


@cache
def _reference(cohort: Cohort, whose: str) -> tuple[Outputs, list[dict]]:
    """Outputs and codes of the originals or of Retrain; every arm of a cohort is compared with them."""
    models = cohort.load(whose)
    return outputs(models, cohort.problem()), [codes(model) for model in models]


def details(models: list[nn.Module], found: Outputs, cohort: Cohort) -> list[dict]:
    """What the claims read besides the four shares, of every network: `told`, and

    cka: similarity of the features of the test set to Retrain's. codes_changed: against the original; None in float.
    relearn: epochs on the forget set until FA is the original's again. flow [C][C]: forget samples by true and
    predicted class. entropies [F]: each forget sample's.
    """
    original, codes_before = _reference(cohort, "original")
    retrained, _ = _reference(cohort, "retrain")
    relearned = _relearned(models, cohort.problem(), original.logits["forget"])
    rows = []
    for k in range(len(models)):
        z, y = found.logits["forget"][k].cpu(), found.labels["forget"][k].cpu()
        changed = None
        if cohort.precision.bits:
            changed = distances.codes_changed(codes_before[k], codes(models[k]))
        rows.append(
            told(found, retrained, k)
            | {
                "cka": distances.linear_cka(found.features[k].cpu(), retrained.features[k].cpu()),
                "codes_changed": changed,
                "relearn": relearned[k],
                "flow": flow(y, z.argmax(1), cohort.classes),
                "entropies": np.round(predictions.entropy(z), 4).tolist(),
            }
        )
    return rows


def told(found: Outputs, retrained: Outputs, k: int) -> dict[str, float | None]:
    """What the predictions of network k tell, beside those of its Retrain.

    entropy, max_probability: means over the forget set, nats and share. wrong_confidence: mean probability of the
    class named, over wrong predictions on the forget set. concentration: `predictions.wrong_concentration` there.
    loss_auc, mentropy_auc: of telling forget from test samples; 1/2 means that they look alike. chi2: distance, in
    [0, 1], of the histogram of classes named on the forget set to Retrain's.
    """
    z, y = found.logits["forget"][k].cpu(), found.labels["forget"][k].cpu()
    named, classes = z.argmax(1), z.shape[1]
    both = named, retrained.logits["forget"][k].argmax(1).cpu()
    histograms = [predictions.prediction_histogram(those, classes) for those in both]
    confidence, wrong = predictions.max_probability(z), (named != y).numpy()
    losses, surprises = {}, {}
    for name in ("forget", "test"):
        part, truth = found.logits[name][k].double().cpu(), found.labels[name][k].cpu()
        losses[name] = F.cross_entropy(part, truth, reduction="none")
        surprises[name] = membership.modified_entropy(part.softmax(1), truth)
    return {
        "entropy": float(predictions.entropy(z).mean()),
        "max_probability": float(confidence.mean()),
        "wrong_confidence": float(confidence[wrong].mean()) if wrong.any() else None,
        "concentration": predictions.wrong_concentration(named, y, classes),
        "loss_auc": membership.auc(losses["forget"], losses["test"]),
        "mentropy_auc": membership.auc(surprises["forget"], surprises["test"]),
        "chi2": predictions.chi_square_distance(*histograms),
    }


def flow(y: Tensor, named: Tensor, classes: int) -> list[list[int]]:
    """[C][C]: how many samples of true class i were called j."""
    return torch.bincount(y * classes + named, minlength=classes**2).view(classes, classes).tolist()


def _relearned(models: list[nn.Module], problem: Problem, original: Tensor) -> list[int]:
    """Epochs of training on the forget set until FA reaches the original's; one more than were tried if never.

    A network that does not survive the training (a step may collapse under the large loss of forgotten labels) has
    not relearned.
    """
    x, y = problem.take(problem.forget)
    students, curves = [copy.deepcopy(model) for model in models], []

    def look(epoch: int = 0) -> None:
        curves.append((training.logits(students, x).argmax(2) == y).double().mean(1).tolist())

    look()
    try:
        training.fit(students, x, y, RELEARN, seeds=problem.seeds, on_epoch=look)
    except training.TrainingDiverged:
        if len(models) == 1:
            return [RELEARN.epochs + 1]
        alone = [problem.only(k) for k in range(len(models))]
        found = [_relearned(models[k : k + 1], alone[k], original[k : k + 1]) for k in range(len(models))]
        return list(chain.from_iterable(found))
    targets = (original.argmax(2) == y).double().mean(1).tolist()
    own_curves = zip(*curves, strict=True)
    reached = [distances.steps_to_recover(curve, target) for curve, target in zip(own_curves, targets, strict=True)]
    return [RELEARN.epochs + 1 if epoch is None else epoch for epoch in reached]
