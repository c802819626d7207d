"""Public functions of metrics and selection, each against its formula in numpy."""

import math
import zlib
from itertools import pairwise

import numpy as np
import torch
from scipy.special import entr, log_softmax, rel_entr, softmax
from scipy.stats import rankdata

from palimpsest import selection
from palimpsest.drills.cases import case, in_float64, size, tensor
from palimpsest.kernels.tolerances import unit_roundoff
from palimpsest.metrics import distances, membership, predictions, text_membership, tofu


def in_single(value, exact, **_):
    """Of results that are computed in float32 of numbers of size 1."""
    return 64 * unit_roundoff(torch.float32) * (1 + np.abs(exact))


def logits_and_classes(rng, name="logits", of="y"):
    n, c = size(rng), 1 + size(rng)
    return {name: tensor(rng, n, c), of: torch.from_numpy(rng.integers(0, c, n))}


@case("predictions.entropy", predictions.entropy, lambda rng: {"logits": tensor(rng, size(rng), size(rng))})
def entropy(logits):
    return entr(softmax(logits, 1)).sum(1)


@case("predictions.max_probability", predictions.max_probability, lambda rng: {"logits": tensor(rng, size(rng), 3)})
def max_probability(logits):
    return softmax(logits, 1).max(1)


@case("predictions.margin", predictions.margin, logits_and_classes)
def margin(logits, y):
    wrong = logits.astype(float)
    wrong[np.arange(len(y)), y] = -np.inf
    top = wrong.max(1)
    return logits[np.arange(len(y)), y] - top - np.log(np.exp(wrong - top[:, None]).sum(1))


def _histograms(rng):
    classes = 1 + size(rng)
    return {f"histogram_{which}": rng.integers(1, 9, classes).astype(float) for which in "ab"}


@case("predictions.chi_square_distance", predictions.chi_square_distance, _histograms)
def chi_square_distance(histogram_a, histogram_b):
    table = np.stack([histogram_a, histogram_b])
    table = table[:, table.any(0)]
    expected = table.sum(1)[:, None] * table.sum(0) / table.sum()
    return ((table - expected) ** 2 / expected).sum() / table.sum()


def _features(rng):
    n = 1 + size(rng)
    return {"features_a": tensor(rng, n, size(rng)), "features_b": tensor(rng, n, size(rng))}


@case("distances.linear_cka", distances.linear_cka, _features, lambda value, exact, **_: 1e-6)
def linear_cka(features_a, features_b):
    a, b = ((x / np.abs(x).max()) for x in (features_a, features_b))
    a, b = a - a.mean(0), b - b.mean(0)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))


@case(
    "membership.auc",
    membership.auc,
    lambda rng: {"members": rng.integers(0, 9, size(rng)) / 3, "nonmembers": rng.integers(0, 9, size(rng)) / 3},
)
def auc(members, nonmembers):
    ranks = rankdata(np.concatenate([nonmembers, members]))[: len(nonmembers)]
    above = ranks.sum() - len(nonmembers) * (len(nonmembers) + 1) / 2
    return above / (len(members) * len(nonmembers))


def _probabilities(rng):
    made = logits_and_classes(rng, "p")
    return made | {"p": made["p"].double().softmax(1)}


@case("membership.modified_entropy", membership.modified_entropy, _probabilities)
def modified_entropy(p, y):
    own = np.eye(p.shape[1], dtype=bool)[y]
    at = np.where(own, 1 - p, p)
    with np.errstate(divide="ignore"):
        return -(at * np.maximum(np.where(own, np.log(p), np.log1p(-p)), math.log(1e-30))).sum(1)


@case("tofu.probability", tofu.probability, lambda rng: {"losses": tensor(rng, size(rng)).abs()})
def probability(losses):
    return np.exp(-np.maximum(losses, 0))


def _choices(rng, right="right_loss", wrong="wrong_losses"):
    n = size(rng)
    return {right: tensor(rng, n).abs(), wrong: tensor(rng, n, size(rng)).abs()}


@case("tofu.choice_probability", tofu.choice_probability, _choices)
def choice_probability(right_loss, wrong_losses):
    return softmax(-np.concatenate([right_loss[:, None], wrong_losses], 1), 1)[:, 0]


@case(
    "tofu.truth_ratio",
    tofu.truth_ratio,
    lambda rng: _choices(rng, "paraphrased_loss", "perturbed_losses"),
    lambda value, exact, **_: 1e-9 * np.abs(exact),
)
def truth_ratio(paraphrased_loss, perturbed_losses):
    return np.exp(np.clip(paraphrased_loss - perturbed_losses.mean(1), -700, 700))


def _labelled(rng):
    n, t = size(rng), size(rng)
    labels = rng.integers(0, 3, (n, t))
    labels[:, 1:][rng.random((n, t - 1)) < 0.3] = -100
    return labels


def _predicted(rng):
    labels = _labelled(rng)
    return {"predicted": torch.from_numpy(rng.integers(0, 3, labels.shape)), "labels": torch.from_numpy(labels)}


@case("tofu.exact_memorisation", tofu.exact_memorisation, _predicted)
def exact_memorisation(predicted, labels):
    return np.array([(p[y >= 0] == y[y >= 0]).mean() for p, y in zip(predicted, labels, strict=True)])


@case("tofu.extraction_strength", tofu.extraction_strength, _predicted)
def extraction_strength(predicted, labels):
    found = []
    for p, y in zip(predicted, labels, strict=True):
        right = (p[y >= 0] == y[y >= 0]).tolist()
        run = next((i for i, ok in enumerate(reversed(right)) if not ok), len(right))
        found.append(run / len(right))
    return np.array(found)


def _token_logprobs(rng):
    labels = _labelled(rng)
    return {"logprobs": -tensor(rng, *labels.shape).abs(), "labels": torch.from_numpy(labels)}


@case("tofu.min_k", tofu.min_k, _token_logprobs)
def min_k(logprobs, labels):
    rows = [np.sort(row[y >= 0]) for row, y in zip(logprobs, labels, strict=True)]
    return np.array([-row[: max(1, int(0.4 * len(row)))].mean() for row in rows])


def _moments(rng):
    made = _token_logprobs(rng)
    shape = made["labels"].shape
    return {
        "logprobs": made["logprobs"],
        "means": tensor(rng, *shape),
        "deviations": tensor(rng, *shape).abs(),
        "labels": made["labels"],
    }


@case("text_membership.min_k_plus_plus", text_membership.min_k_plus_plus, _moments)
def min_k_plus_plus(logprobs, means, deviations, labels):
    return min_k((logprobs - means) / np.maximum(deviations, 1e-3), labels)


@case(
    "text_membership.zlib_ratio",
    text_membership.zlib_ratio,
    lambda rng: {"losses": tensor(rng, 2), "texts": ["a" * size(rng), "żółw" * size(rng)]},
)
def zlib_ratio(losses, texts):
    return losses / np.array([len(zlib.compress(text.encode())) for text in texts])


def _scored(rng, name="logits"):
    return logits_and_classes(rng, name, "labels")


@case("selection.el2n", selection.el2n, _scored, in_single)
def el2n(logits, labels):
    error = softmax(logits, -1) - np.eye(logits.shape[-1])[labels]
    norms = np.sqrt((error**2).sum(-1))
    return norms.mean(0) if norms.ndim == 2 else norms


@case(
    "selection.forgetting_events",
    selection.forgetting_events,
    lambda rng: {"correct": torch.from_numpy(rng.random((size(rng), size(rng))) < 0.5)},
)
def forgetting_events(correct):
    found = []
    for sample in correct.T.tolist():
        events = sum(a and not b for a, b in pairwise(sample))
        found.append(events if any(sample) else len(sample))
    return np.array(found, float)


def divergences(features, labels, divergence):
    """Of each sample to the mean of its class, in float64."""
    found = np.empty(len(features))
    for c in np.unique(labels):
        mine = features[labels == c]
        centre = (mine / len(mine)).sum(0)
        if divergence == "l2":
            gap = np.abs(mine - centre)
            largest = np.where(gap.max(1) > 0, gap.max(1), 1)
            found[labels == c] = largest * np.sqrt(((gap / largest[:, None]) ** 2).sum(1))
            continue
        log_p, log_q = log_softmax(mine, 1), log_softmax(centre)
        if divergence == "kl":
            found[labels == c] = (np.exp(log_p) * (log_p - log_q)).sum(1)
        else:
            p, q = np.exp(log_p), np.exp(log_q)
            m = (p + q) / 2
            found[labels == c] = (rel_entr(p, m) + rel_entr(q, m)).sum(1) / 2
    return found


def _divergence_allowed(value, exact, features, labels, divergence):
    """A difference of numbers as large as the features' own, rounded to float32; the square root of the rounding
    where J itself is the square of a difference."""
    size_of = np.abs(in_float64(features)).max() * features.shape[1]
    unit = unit_roundoff(torch.float32)
    of_kind = {"l2": 8 * size_of, "kl": 64 * (1 + size_of), "jsd": 64 * (1 + np.sqrt(exact))}
    return unit * of_kind[divergence] + 1e-40


@case(
    "selection.divergence_to_centre",
    selection.divergence_to_centre,
    lambda rng: _scored(rng, "features") | {"divergence": ("l2", "kl", "jsd")[rng.integers(3)]},
    _divergence_allowed,
)
def divergence_to_centre(features, labels, divergence):
    return divergences(features, labels, divergence)


def _to_select(rng):
    return _scored(rng, "features") | {"fraction": float(rng.uniform(0.01, 1)), "method": _METHODS[rng.integers(3)]}


_METHODS = ("moderate", "random", "jscds")


def selected(features, labels, fraction, method):
    """How many are kept of each class, whether each once, and by how much one that is dropped should have come before
    one that is kept."""
    kept = selection.select(features, labels, fraction, method)
    features, labels = in_float64(features), in_float64(labels)
    worse = 0.0
    if method != "random":
        values = divergences(features, labels, "l2" if method == "moderate" else "jsd")
        for c in np.unique(labels):
            mine = labels == c
            middle = np.median(values[mine]) if method == "moderate" else values[mine].mean()
            chosen = np.isin(np.flatnonzero(mine), kept.numpy())
            penalty = np.abs(values[mine] - middle)
            if not chosen.all():
                worse = max(worse, (penalty[chosen].max() - penalty[~chosen].min()) / max(values[mine].max(), 1e-3))
    counts = np.unique(labels[kept.numpy()], return_counts=True)
    return *counts, np.array(kept.unique().numel() == len(kept)), worse


@case(
    "selection.select",
    selected,
    _to_select,
    lambda value, exact, **_: (np.zeros(exact[0].shape), np.zeros(exact[1].shape), 0.0, 1e-3),
)
def select(features, labels, fraction, method):
    classes, sizes = np.unique(labels, return_counts=True)
    kept = np.array([max(1, math.floor(fraction * n + 0.5)) for n in sizes])
    return classes, kept, np.array(True), 0.0
