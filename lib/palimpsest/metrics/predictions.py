"""What a network says about a set of samples: how sure it is, which classes it names, which wrong ones.

Every function takes the outputs of one network, as tensors or arrays, and computes in float64. Raises ValueError
for shapes that do not fit, classes outside 0 .. C - 1, values that are not finite, and empty sets.
"""

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import chi2_contingency

from palimpsest.kernels import softmax_entropy

from . import checks


def entropy(logits) -> np.ndarray:
    """[N, C] logits -> float64 [N], the entropy of each prediction in nats, from 0 (sure) to ln C (uniform)."""
    return softmax_entropy(torch.from_numpy(checks.real("logits", logits, "NC"))).numpy()


def max_probability(logits) -> np.ndarray:
    """[N, C] logits -> float64 [N], the probability of the class named, from 1/C (uniform) to 1 (sure)."""
    return softmax(checks.real("logits", logits, "NC"), axis=1).max(1)


def margin(logits, y) -> np.ndarray:
    """The log-odds of the true class, z_y - ln Σ_{k≠y} e^{z_k} = ln(p_y / (1 - p_y)), in nats.

    Released code of KLoM (see `distances.klom`). logits: [N, C]; y: [N] true classes. Returns float64 [N].
    """
    logits = checks.real("logits", logits, "NC")
    rows, y = np.arange(len(logits)), checks.classes_of("y", y, logits.shape[1], len(logits))
    own = logits[rows, y]
    logits[rows, y] = -np.inf
    return own - logsumexp(logits, axis=1)


def prediction_histogram(predictions, classes: int) -> np.ndarray:
    """How often each class is named: [N] predicted classes -> int64 [classes], also where it is 0."""
    return np.bincount(checks.classes_of("predictions", predictions, classes), minlength=classes)


def chi_square_distance(histogram_a, histogram_b) -> float:
    """Pearson's χ² of two histograms of counts over the same classes, divided by all counts: in [0, 1].

    0 for equal shares, 1 for no class in common; the square of Cramér's V. With equally many samples on both sides
    it is ½ Σ_k (p_k - q_k)² / (p_k + q_k). The division, our reading, takes the number of samples out of the
    scale, not out of the noise: two samples of size n from one distribution over K classes are (K - 1) / 2n apart
    on average. Two networks' predictions on the same samples are not independent: no p value is given.

    histogram_a, histogram_b: [K] counts, whole numbers, none negative, each with a sum above 0.
    """
    a, b = _counts("histogram_a", histogram_a), _counts("histogram_b", histogram_b)
    if len(a) != len(b):
        raise ValueError(f"histogram_b: got {len(b)} classes, want the {len(a)} of histogram_a")
    table = np.stack([a, b])
    # scipy refuses a class that neither names; Yates's correction would make two classes a special case.
    return float(chi2_contingency(table[:, table.any(0)], correction=False).statistic / table.sum())


def wrong_concentration(predictions, labels, classes: int) -> float:
    """How much the wrong predictions of a class fall together, from 0 to 1; NaN where no class has two of them.

    For one true class: the probability that two of its wrong predictions, drawn without replacement, name the
    same class, Σ_k n_k (n_k - 1) / (n (n - 1)); then the mean over the true classes with at least two wrong
    predictions. Evenly spread errors give 1 / (classes - 1) on average, a single substitute class gives 1.

    Our reading of "misremembering" (OEU): a method that teaches false labels moves this away from Retrain's. The
    largest share max_k n_k / n would be the plainer measure, but it grows as n falls, and unlearned and retrained
    networks differ in their number of errors; this one has the same expectation for every n ≥ 2.

    predictions, labels: [N] classes in 0 .. classes - 1.
    """
    from sklearn.metrics import confusion_matrix  # here, because it takes a second to import

    predictions = checks.classes_of("predictions", predictions, classes)
    labels = checks.classes_of("labels", labels, classes, len(predictions))
    wrong = confusion_matrix(labels, predictions, labels=range(classes))
    np.fill_diagonal(wrong, 0)
    wrong = wrong[wrong.sum(1) >= 2]
    if len(wrong) == 0:
        return float("nan")
    n = wrong.sum(1)
    return float(((wrong * (wrong - 1)).sum(1) / (n * (n - 1))).mean())


def _counts(name, histogram):
    counts = checks.real(name, histogram, "K")
    if (counts < 0).any() or (counts % 1).any() or not 0 < counts.max() < 2**53:
        want = "whole numbers, none negative, with a sum above 0, each below 2^53"
        raise ValueError(f"{name}: got {counts.tolist()}, want {want}")
    return counts
