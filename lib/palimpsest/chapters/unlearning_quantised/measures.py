"""What is measured on the networks of a cohort, network by network."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest import training
from palimpsest.chapters.unlearning_quantised.cohort import Cohort, Problem
from palimpsest.metrics import distances, membership, predictions
from palimpsest.nets.quantised import codes
from palimpsest.training.seeds import generator

SHARES = ("FA", "RA", "TA", "MIA", "codes_changed", "max_probability", "wrong_confidence", "sure")
"""Columns that tables show in percent."""

SURE = 0.01
"""Nats: a prediction of less entropy is as good as certain; its class has 99.9 % or so."""


@dataclass(frozen=True)
class Outputs:
    """What K networks say: logits [K, n, C] and labels [K, n] by part ("forget", "retain", "test", "validation"), and
    their features [K, n, D] of the test set, None where only predictions were stored."""

    logits: dict[str, Tensor]
    labels: dict[str, Tensor]
    features: Tensor | None = None


def outputs(models: list[nn.Module], problem: Problem) -> Outputs:
    sets = {"forget": problem.take(problem.forget), "retain": problem.take(problem.retain)}
    logits = {name: training.logits(models, x) for name, (x, _) in sets.items()}
    labels = {name: y for name, (_, y) in sets.items()}
    features, logits["test"] = training.predict(models, problem.test[0])
    logits["validation"] = training.logits(models, problem.validation[0])
    for name, (_, y) in (("test", problem.test), ("validation", problem.validation)):
        labels[name] = y.expand(len(models), -1)
    return Outputs(logits, labels, features)


def report(found: Outputs, seeds: list[int], unseen: str = "test") -> list[dict[str, float]]:
    """FA, RA, TA and MIA of every network, as shares; `unseen` is the part that TA and MIA use."""
    logits, labels = found.logits, found.labels
    right = {n: (logits[n].argmax(2) == labels[n]).double().mean(1).tolist() for n in logits}
    rows = []
    for k, seed in enumerate(seeds):
        # As many retain as test samples, as in the code released with Q-MUL.
        n = min(labels["retain"].shape[1], labels[unseen].shape[1])
        arguments = []
        for name in ("retain", unseen, "forget"):
            p, y = logits[name][k].double().softmax(-1).cpu(), labels[name][k].cpu()
            if name != "forget":
                drawn = torch.randperm(len(y), generator=generator(seed, "members"))[:n]
                p, y = p[drawn], y[drawn]
            arguments += [p, y]
        mia = membership.svc_confidence(*arguments)
        rows.append({"FA": right["forget"][k], "RA": right["retain"][k], "TA": right[unseen][k], "MIA": mia})
    return rows


@cache
def reference(cohort: Cohort, whose: str) -> tuple[Outputs, list[dict]]:
    """Outputs and codes of the originals or of Retrain; every arm of a cohort is compared with them."""
    models = cohort.load(whose)
    return outputs(models, cohort.problem()), [codes(model) for model in models]


@cache
def targets(cohort: Cohort) -> dict[str, list[dict[str, float]]]:
    """FA, RA, TA and MIA of the cohort's Retrain on "test" and on "validation" images."""
    found, _ = reference(cohort, "retrain")
    return {unseen: report(found, cohort.seeds, unseen) for unseen in ("test", "validation")}


def details(models: list[nn.Module], found: Outputs, cohort: Cohort, networks: list[int]) -> list[dict]:
    """What the claims read besides the four shares, of models that started from those `networks` of the cohort:
    `told`, and

    cka: similarity of the features of the test set to Retrain's. codes_changed: against the original; None in float.
    flow [C][C]: forget samples by true and predicted class. entropies [F], margins [F]: each forget sample's, the
    margin being the logit of its label minus the largest other one.
    """
    _, codes_before = reference(cohort, "original")
    retrained, _ = reference(cohort, "retrain")
    rows = []
    for i, k in enumerate(networks):
        z, y = found.logits["forget"][i].cpu(), found.labels["forget"][i].cpu()
        changed = None
        if cohort.precision.bits:
            changed = distances.codes_changed(codes_before[k], codes(models[i]))
        rows.append(
            told(found, retrained, i, k)
            | {
                "cka": distances.linear_cka(found.features[i].cpu(), retrained.features[k].cpu()),
                "codes_changed": changed,
                "flow": flow(y, z.argmax(1), cohort.classes),
                "entropies": np.round(predictions.entropy(z), 4).tolist(),
                "margins": np.round(margins(z, y), 3).tolist(),
            }
        )
    return rows


def margins(z: Tensor, y: Tensor) -> np.ndarray:
    """[n] logit of the label minus the largest other one; z [n, C], y [n]."""
    own = z.gather(1, y[:, None])
    return (own[:, 0] - z.scatter(1, y[:, None], -torch.inf).max(1).values).numpy()


def told(found: Outputs, retrained: Outputs, i: int, k: int) -> dict[str, float | None]:
    """What the predictions of network i tell, beside those of Retrain k.

    entropy, max_probability: means over the forget set, nats and share. wrong_confidence: mean probability of the
    class named, over wrong predictions on the forget set. concentration: `predictions.wrong_concentration` there.
    sure: share of the forget set whose entropy is below `SURE`. loss_auc, mentropy_auc: of telling forget from test
    samples; 1/2 means that they look alike. chi2: distance, in [0, 1], of the histogram of classes named on the
    forget set to Retrain's.
    """
    z, y = found.logits["forget"][i].cpu(), found.labels["forget"][i].cpu()
    named, classes = z.argmax(1), z.shape[1]
    both = named, retrained.logits["forget"][k].argmax(1).cpu()
    histograms = [predictions.prediction_histogram(those, classes) for those in both]
    confidence, wrong = predictions.max_probability(z), (named != y).numpy()
    losses, surprises = {}, {}
    for name in ("forget", "test"):
        part, truth = found.logits[name][i].double().cpu(), found.labels[name][i].cpu()
        losses[name] = F.cross_entropy(part, truth, reduction="none")
        surprises[name] = membership.modified_entropy(part.softmax(1), truth)
    entropies = predictions.entropy(z)
    return {
        "entropy": float(entropies.mean()),
        "sure": float((entropies < SURE).mean()),
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
