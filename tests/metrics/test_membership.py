"""Membership attacks, on cases worked by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.svm import SVC

from palimpsest.metrics.membership import auc, modified_entropy, svc_attacks, svc_confidence

# A handful of float64 operations, each off by at most one unit in the last place.
ULPS = 32 * np.finfo(float).eps


def sure(*confidences):
    """Two-class probabilities with these of the true class, which is 0 and 1 in turn."""
    y = np.arange(len(confidences)) % 2
    own = np.array(confidences)
    p = np.stack([np.where(y == 0, own, 1 - own), np.where(y == 1, own, 1 - own)], 1)
    return p, y


def softmax_of(n, lift, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 5, (n,), generator=generator)
    logits = torch.randn(n, 5, generator=generator)
    logits[torch.arange(n), y] += lift
    return logits.softmax(1), y


def test_svc_confidence_by_hand():
    # Two members at 0.75, one non-member at 0.25: k = K(0.75, 0.25) = exp(-0.5²) = 0.7788. The dual variables sum
    # to A on both sides, and 2A - A²(1 - k) is largest at A = 1/(1 - k) = 4.52, which the single non-member may not
    # have: A = C = 3. Members lie on the margin, A(1 - k) + b = 1, so b = 0.3364, and
    # f(x) = 3 (exp(-(x - 0.75)²) - exp(-(x - 0.25)²)) + b is -0.077 at 0.35 and +0.057 at 0.40. With C at 4.52 or
    # more, gamma at 2 or "scale" or a linear kernel, 0.40 and 0.45 would be non-members; with C = 1 none would.
    members, nonmember = sure(0.75, 0.75), sure(0.25)
    assert svc_confidence(*members, *nonmember, *sure(0.10, 0.35, 0.40, 0.45, 0.90)) == 2 / 5


def test_svc_confidence_between_equal_sets():
    # Mirror images about 1/2 with equal numbers: the boundary is at 1/2.
    retain, test = sure(0.7, 0.8, 0.9), sure(0.3, 0.2, 0.1)
    assert svc_confidence(*retain, *test, *sure(0.99, 0.6, 0.55, 0.45)) == 1 / 4
    assert svc_confidence(*retain, *test, *test) == 1
    assert svc_confidence(*retain, *test, *retain) == 0


def test_svc_confidence_looks_at_the_true_class_only():
    retain, test, forget = softmax_of(200, 4.0, 1), softmax_of(150, 1.0, 2), softmax_of(80, 2.5, 3)
    value = svc_confidence(*retain, *test, *forget)
    assert 0 < value < 1
    assert value == svc_confidence(*retain, *test, *forget)
    # The other classes' probabilities may change places.
    order = torch.tensor([3, 1, 4, 0, 2])
    moved = [(p[:, order.argsort()], order[y]) for p, y in (retain, test, forget)]
    assert value == svc_confidence(*(a for pair in moved for a in pair))
    # A tensor is what its array is.
    assert value == svc_confidence(*(a.numpy() for pair in (retain, test, forget) for a in pair))


def test_svc_attacks_each_look_at_their_own_feature():
    # Members are right, non-members wrong: what is wrong is a non-member. All are as sure as one another, so that
    # entropy tells nothing; with twice as many members everything is one.
    retain, test, forget = sure(*[0.9] * 8), sure(*[0.1] * 4), sure(0.9, 0.9, 0.1, 0.9)
    found = svc_attacks(*retain, *test, *forget)
    assert list(found) == ["correctness", "confidence", "entropy", "modified entropy", "probabilities"]
    assert found["correctness"] == found["confidence"] == found["modified entropy"] == 1 / 4
    assert found["entropy"] == 0
    # Classes alternate, and both come in both sets: 0.9 in the first column is no sign of a member.
    assert found["probabilities"] == 0


def test_svc_attacks_by_the_library():
    sets = softmax_of(120, 4.0, 1), softmax_of(120, 1.0, 2), softmax_of(80, 2.5, 3)
    given = [a for pair in sets for a in pair]
    found = svc_attacks(*given)
    assert found["confidence"] == svc_confidence(*given)
    by_hand = {
        "entropy": lambda p, y: -(p * p.log()).sum(1, keepdim=True),
        "modified entropy": lambda p, y: torch.tensor(modified_entropy(p, y))[:, None],
        "probabilities": lambda p, y: p,
    }
    for name, feature in by_hand.items():
        retain, test, forget = (feature(p.double(), y).numpy() for p, y in sets)
        attack = SVC(C=3, gamma=1 / retain.shape[1]).fit(np.concatenate([retain, test]), [1] * 120 + [0] * 120)
        assert found[name] == (attack.predict(forget) == 0).mean() != found["confidence"]


@pytest.mark.parametrize(
    ("part", "p", "y", "message"),
    [
        ("retain", [[0.5, 0.6]], [0], r"p_retain: got row 0 with sum 1\.1, want rows that sum to 1"),
        ("test", [[0.5, 0.5], [1.5, -0.5]], [0, 0], r"p_test: got values in -0\.5 \.\. 1\.5, want probabilities"),
        ("forget", [[0.5, math.nan]], [0], r"p_forget: got nan at \[0, 1\], want \[N, C\] finite"),
        ("forget", np.empty((0, 2)), [], r"p_forget: got float64 \[0, 2\], want .* no axis empty"),
        ("forget", [0.5, 0.5], [0, 1], r"p_forget: got float64 \[2\], want \[N, C\]"),
        ("forget", [[0.5, 0.5], [1.0]], [0, 1], r"p_forget: got object"),
        ("test", [[0.5, 0.5]], [2], r"y_test: got values in 2 \.\. 2, want \[1\] integers in 0 \.\. 1"),
        ("test", [[0.5, 0.5]], [-1], r"y_test: got values in -1 \.\. -1"),
        ("retain", [[0.5, 0.5]], [0.0], r"y_retain: got float64 \[1\], want \[1\] integers"),
        ("retain", [[0.5, 0.5]], [0, 1], r"y_retain: got int64 \[2\], want \[1\] integers"),
        ("retain", [[0.5, 0.25, 0.25]], [0], r"p_retain, p_test, p_forget: got \[3, 2, 2\] classes"),
    ],
)
def test_svc_confidence_refuses(part, p, y, message):
    parts = {"retain": sure(0.9, 0.9), "test": sure(0.1), "forget": sure(0.5)} | {part: (p, y)}
    with pytest.raises(ValueError, match=message):
        svc_confidence(*parts["retain"], *parts["test"], *parts["forget"])


def test_float32_softmax_is_a_distribution():
    p, y = softmax_of(5000, 3.0, 0)
    assert modified_entropy(p, y).dtype == np.float64
    with pytest.raises(ValueError, match="rows that sum to 1"):
        modified_entropy(p * (1 - 1e-5), y)


def test_modified_entropy_by_hand():
    p = np.array([[0.5, 0.25, 0.25]] * 3)
    ln = math.log
    expected = [
        0.5 * ln(2) + 2 * 0.25 * ln(4 / 3),  # y = 0: -(1 - 1/2) ln 1/2 - 2 · 1/4 ln 3/4 = 0.4904
        0.75 * ln(4) + 0.5 * ln(2) + 0.25 * ln(4 / 3),  # y = 1: -(3/4) ln 1/4 - 1/2 ln 1/2 - 1/4 ln 3/4
        0.75 * ln(4) + 0.5 * ln(2) + 0.25 * ln(4 / 3),
    ]
    # ln p_i in place of ln(1 - p_i) gives 0.5 ln 2 + 0.5 ln 4 = 1.0397 for y = 0; the true-class term in every column
    # of a batch that holds all classes gives 0.5 ln 2 + 2 · 0.75 ln 4 = 2.4260.
    assert modified_entropy(p, [0, 1, 2]) == pytest.approx(expected, rel=ULPS)
    assert modified_entropy(p[:1], [0]) == pytest.approx(expected[:1], rel=ULPS)


def test_modified_entropy_of_two_classes():
    # 1 - p of the other class is p_y: both terms are equal, -2 (1 - p_y) ln p_y.
    p, y = sure(0.125, 0.5, 0.875)
    expected = [2 * 0.875 * math.log(8), math.log(2), 0.25 * math.log(8 / 7)]
    assert modified_entropy(p, y) == pytest.approx(expected, rel=ULPS)


def test_modified_entropy_at_the_ends():
    sure_and_right, sure_and_wrong = modified_entropy([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0, 0])
    assert sure_and_right == 0
    # Both logarithms at the floor: -(1 - 0) ln 1e-30 - 1 · ln 1e-30.
    assert sure_and_wrong == pytest.approx(-2 * math.log(1e-30), rel=ULPS)
    # Two wrong classes of 1e-17 each, so that 1 - p_i rounds to 1: 2 · p_i², by -ln(1 - p) = p + p²/2 + ...
    # (Divided, since pytest.approx would let any number below 1e-12 pass.)
    assert modified_entropy([[1.0, 1e-17, 1e-17]], [0]) / 2e-34 == pytest.approx([1], rel=ULPS)


def test_auc_by_hand():
    # Pairs (member, non-member): 1<2, 1<4, 2=2 (half), 2<4, 3>2 (not), 3<4: 4.5 of 6.
    assert auc([1.0, 2.0, 3.0], [2.0, 4.0]) == pytest.approx(0.75, rel=ULPS)
    assert auc([0.1, 0.2], [0.3]) == 1
    assert auc([0.3], [0.1, 0.2]) == 0
    assert auc([1.0, 1.0], [1.0]) == 0.5


def test_auc_symmetries():
    generator = torch.Generator().manual_seed(0)
    members = torch.rand(300, generator=generator).mul(20).round()
    nonmembers = torch.rand(200, generator=generator).mul(20).round() + 3
    value = auc(members, nonmembers)
    # 60,000 pairs, counted in halves and summed over at most 24 steps of the curve.
    near = {"abs": 1e-12}
    assert auc(nonmembers, members) == pytest.approx(1 - value, **near)
    assert auc(members.exp(), nonmembers.exp()) == pytest.approx(value, **near)
    assert auc(-nonmembers, -members) == pytest.approx(value, **near)
    assert 1 - mannwhitneyu(members, nonmembers).statistic / 60_000 == pytest.approx(value, **near)


def test_auc_refuses():
    with pytest.raises(ValueError, match=r"members: got float64 \[0\]"):
        auc([], [1.0])
    with pytest.raises(ValueError, match=r"nonmembers: got inf at \[1\]"):
        auc([1.0], [1.0, math.inf])
    with pytest.raises(ValueError, match=r"nonmembers: got bool \[1\]"):
        auc([1.0], torch.tensor([True]))
