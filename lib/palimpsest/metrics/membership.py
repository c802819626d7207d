"""Membership inference: does a network still treat the forgotten samples as it treats its training samples?

Every function takes the outputs of one network, as tensors or arrays, computes in float64 and draws nothing at
random. Raises ValueError for probabilities that are none, labels outside the classes, NaN, and empty sets.
"""

import math

import numpy as np
from scipy.special import entr

from . import checks

LOG_FLOOR = math.log(1e-30)
"""The logarithm of a smaller number is taken as this one (about -69), so that a score stays finite."""


def svc_confidence(p_retain, y_retain, p_test, y_test, p_forget, y_forget) -> float:
    """The confidence attack: the share of the forget set that an SVC calls non-members, in [0, 1].

    Q-MUL, released code: the feature is the softmax probability of the true class; SVC (radial basis functions,
    C = 3, gamma = "auto", which is 1 for one feature) is fitted on as many retain samples (members) as there are
    test samples (non-members). The caller draws the retain samples. Unequal numbers are accepted, which is our
    reading: they shift the decision towards the larger set, so draw equal ones to compare with the paper.
    Retrain's own value is the one to reach: neither 1 nor 1/2 is by itself.

    Args:
        p_retain, p_test, p_forget: [n, C] class probabilities in [0, 1], rows summing to 1; n may differ.
        y_retain, y_test, y_forget: [n] true classes, integers in 0 .. C - 1.
    """
    retain, test, forget = _checked(p_retain, y_retain, p_test, y_test, p_forget, y_forget)
    return _non_members(*(_own(p, y)[:, None] for p, y in (retain, test, forget)))


def svc_attacks(p_retain, y_retain, p_test, y_test, p_forget, y_forget) -> dict[str, float]:
    """`svc_confidence`, and the same attack on four other features: the share of non-members by the feature's name.

    The script that unlearning papers share (released with Jia et al. 2023, "Model sparsity can simplify machine
    unlearning", and with SalUn and Q-MUL) fits an SVC to each: "correctness" (1 where the likeliest class is the true
    one), "confidence", "entropy" (−Σ p ln p), "modified entropy" and "probabilities" (all C, gamma = 1/C). Its
    modified entropy is not that of its source; ours is (`modified_entropy`).

    Arguments and errors as `svc_confidence`.
    """
    sets = _checked(p_retain, y_retain, p_test, y_test, p_forget, y_forget)
    features = {
        "correctness": lambda p, y: (p.argmax(1) == y).astype(np.float64)[:, None],
        "confidence": lambda p, y: _own(p, y)[:, None],
        "entropy": lambda p, y: entr(p).sum(1, keepdims=True),
        "modified entropy": lambda p, y: modified_entropy(p, y)[:, None],
        "probabilities": lambda p, y: p,
    }
    return {name: _non_members(*(feature(p, y) for p, y in sets)) for name, feature in features.items()}


def modified_entropy(p, y) -> np.ndarray:
    """Mentr = -(1 - p_y) ln p_y - Σ_{i≠y} p_i ln(1 - p_i) in nats: low where the network is sure and right.

    Song and Mittal 2021, "Systematic evaluation of privacy risks of machine learning models", section 3.2. Zero
    at p_y = 1; its limit is infinite where p_y = 0, and there the logarithms are floored at ln 1e-30, as in their
    code. The script that unlearning papers share takes ln p_i in the sum, and gives the true-class term to
    every class that occurs as a label in the batch; both change the score, and neither is done here.

    p: [N, C] class probabilities (float64 keeps very sure samples apart); y: [N] true classes. Returns float64 [N].
    """
    p = checks.probabilities("p", p)
    rows, y = np.arange(len(p)), checks.classes_of("y", y, p.shape[1], len(p))
    own = p[rows, y]
    with np.errstate(divide="ignore"):
        terms = p * np.maximum(np.log1p(-p), LOG_FLOOR)
        terms[rows, y] = (1 - own) * np.maximum(np.log(own), LOG_FLOOR)
    return -terms.sum(1)


def auc(members, nonmembers) -> float:
    """The area under the ROC curve of telling members by their *lower* score, in [0, 1]; 1/2 is chance.

    It is the probability that a member scores below a non-member, ties counted half. For scores that are low on
    training samples: the cross-entropy loss (Yeom et al. 2018) or `modified_entropy`. Song and Mittal set one
    threshold per class; this is one ranking over all classes, our reading.

    members, nonmembers: [n] and [m] finite scores.
    """
    from sklearn.metrics import roc_auc_score

    members, nonmembers = checks.real("members", members, "N"), checks.real("nonmembers", nonmembers, "N")
    is_member = np.repeat([1, 0], [len(members), len(nonmembers)])
    return float(roc_auc_score(is_member, -np.concatenate([members, nonmembers])))


def _checked(*given):
    """(probabilities, true classes) of retain, test and forget set."""
    sets = []
    for part, p, y in zip(("retain", "test", "forget"), given[::2], given[1::2], strict=True):
        p = checks.probabilities(f"p_{part}", p)
        sets.append((p, checks.classes_of(f"y_{part}", y, p.shape[1], len(p))))
    widths = [p.shape[1] for p, _ in sets]
    if len(set(widths)) > 1:
        raise ValueError(f"p_retain, p_test, p_forget: got {widths} classes, want one number of classes")
    return sets


def _own(p, y):
    """The true class's probability, [N]."""
    return p[np.arange(len(p)), y]


def _non_members(retain, test, forget):
    """The share of `forget` [n, features] that an SVC fitted to the other two takes for the like of `test`."""
    from sklearn.svm import SVC  # here, because it takes a second to import and the command line needs none of it

    member = np.repeat([1, 0], [len(retain), len(test)])
    attack = SVC(kernel="rbf", C=3, gamma="auto").fit(np.concatenate([retain, test]), member)
    return float((attack.predict(forget) == 0).mean())
