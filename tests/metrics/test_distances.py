"""Distances between networks, on cases worked by hand and under the changes that must not matter."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from palimpsest.metrics.distances import avg_gap, codes_changed, klom, linear_cka, steps_to_recover

# A handful of float64 operations, each off by at most one unit in the last place.
ULPS = 32 * np.finfo(float).eps


def test_avg_gap_by_hand():
    measured = {"FA": 0.90, "RA": 0.98, "TA": 0.85, "MIA": 0.30}
    retrain = {"FA": 0.92, "RA": 1.00, "TA": 0.91, "MIA": 0.20, "seconds": 12.0}
    # Differences 2, 2, 6 and 10 points, of both signs: 20 / 4. Shares near 1 are off by 1e-16, differences too.
    assert avg_gap(measured, retrain) == pytest.approx(5, abs=100 * ULPS)
    assert avg_gap(retrain, measured) == avg_gap(measured, retrain)
    assert avg_gap(retrain, retrain) == 0
    assert avg_gap(dict.fromkeys(measured, 0), dict.fromkeys(measured, 1)) == 100


def test_avg_gap_refuses():
    row = {"FA": 0.9, "RA": 1.0, "TA": 0.9, "MIA": 0.2}
    for name in row:
        rest = {key: value for key, value in row.items() if key != name}
        with pytest.raises(ValueError, match=r"measured: got .* want all of FA, RA, TA, MIA"):
            avg_gap(rest, row)
        with pytest.raises(ValueError, match=r"retrain: got .* want all of FA, RA, TA, MIA"):
            avg_gap(row, rest)
    for bad in (90.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"measured: got .* for 'TA', want a share in \[0, 1\]"):
            avg_gap(row | {"TA": bad}, row)


def test_klom_by_hand():
    # Two bins of [0, 4]. Sample 0: shares (3/4, 1/4) against (1/4, 3/4), 3/4 ln 3 - 1/4 ln 3. Sample 1: (1, 0)
    # against (1/2, 1/2), ln 2. Sample 2: the other way round, where the empty bin gets 1e-5 of 1 + 1e-5:
    # 1/2 ln 1/2 + 1/2 ln(1/2 / 1e-5) + ln(1 + 1e-5). Sample 3: nothing in common, ln(1 + 1e-5) - ln 1e-5.
    unlearned = torch.tensor([[0.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 4, 0], [4, 0, 3, 0]])
    retrained = torch.tensor([[0.0, 0, 0, 4], [4, 4, 0, 4], [3, 0, 0, 4], [4, 3, 0, 4]])
    rest = math.log1p(1e-5)
    expected = [
        0.5 * math.log(3),
        math.log(2),
        math.log(0.5) / 2 + math.log(5e4) / 2 + rest,
        rest - math.log(1e-5),
    ]
    assert klom(unlearned, retrained, bins=2) == pytest.approx(expected, rel=ULPS)


def test_klom_keeps_the_largest_margin_and_clips():
    # 19.5 and 20 share the last of 20 bins of [0, 20].
    assert klom([[0.0], [20.0]], [[0.0], [19.5]]).tolist() == [0]
    # 100 and 150 are one margin, -100 and -150 as well.
    assert klom([[0.0, 0.0], [150.0, -150.0]], [[0.0, 0.0], [100.0, -100.0]]).tolist() == [0, 0]
    # Below the clip 99 and 94 are two margins, in bins 19 and 18: half the mass has no counterpart.
    expected = 0.5 * math.log(0.5 / 1e-5) + math.log1p(1e-5)
    assert klom([[0.0], [99.0]], [[0.0], [94.0]]) == pytest.approx([expected], rel=ULPS)
    # Without spread there is one bin.
    assert klom([[3.0], [3.0]], [[3.0]]).tolist() == [0]


def test_klom_is_by_sample_and_by_histogram():
    generator = np.random.default_rng(0)
    p, q = generator.normal(size=(40, 30)), generator.normal(1.0, 2.0, size=(60, 30))
    for sample, value in enumerate(klom(p, q)):
        a, b = p[:, sample], q[:, sample]
        both = (min(a.min(), b.min()), max(a.max(), b.max()))
        counts_a, counts_b = (np.histogram(x, 20, both)[0] for x in (a, b))
        reference = np.where(counts_a > 0, np.maximum(counts_b / 60, 1e-5), counts_b / 60)
        assert value == pytest.approx(entropy(counts_a, reference), rel=1e-12)
    # The order of the networks, a shift and a change of scale do not matter; the direction does.
    assert klom(p[::-1], q) == pytest.approx(klom(p, q), rel=1e-12)
    assert klom(4 * p + 1, 4 * q + 1) == pytest.approx(klom(p, q), rel=1e-12)
    assert abs(klom(p, q) - klom(q, p)).min() > 1e-3


@pytest.mark.parametrize(
    ("networks", "bins", "value"), [(3, 20, 9.2), (10, 20, 5.6), (100, 20, 0.4), (3, 4, 5.0), (10, 4, 0.9)]
)
def test_klom_of_two_samples_of_one_distribution(networks, bins, value):
    # The docstring's figures, given to one decimal; the mean of 4000 samples adds at most 0.03 of error (the
    # standard deviation of one is below 2).
    generator = np.random.default_rng(networks)
    p, q = generator.normal(size=(2, networks, 4000))
    assert klom(p, q, bins).mean() == pytest.approx(value, abs=0.05 + 4 * 2 / math.sqrt(4000))


def test_klom_refuses():
    with pytest.raises(ValueError, match="margins_retrained: got 3 samples, want the 2 of margins_unlearned"):
        klom(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"margins_unlearned: got float64 \[4\], want \[M, N\]"):
        klom(np.zeros(4), np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"margins_retrained: got nan at \[0, 0\], want \[L, N\]"):
        klom(np.zeros((1, 1)), [[math.nan]])
    for bins in (1, 2.0, True):
        with pytest.raises(ValueError, match=r"bins: got .* want an integer of at least 2"):
            klom(np.zeros((2, 2)), np.zeros((2, 2)), bins)


def test_linear_cka_by_hand():
    # One column each: the squared correlation. Centred (-1, 0, 1) and (-1, -1, 2): 3² / (2 · 6) = 3/4.
    assert linear_cka([[0.0], [1.0], [2.0]], [[0.0], [0.0], [3.0]]) == pytest.approx(0.75, rel=ULPS)
    # (-1, 0, 1) and (1, -2, 1) are orthogonal.
    assert linear_cka([[-1.0], [0.0], [1.0]], [[1.0], [-2.0], [1.0]]) == 0
    # A'A = 2·1 with norm 2√2, B'B = 2, A'B = (2, 0): 4 / (2√2 · 2) = 1/√2.
    cross = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    assert linear_cka(cross, [[1.0], [-1.0], [0.0], [0.0]]) == pytest.approx(math.sqrt(0.5), rel=ULPS)


def test_linear_cka_invariances():
    generator = np.random.default_rng(0)
    a = generator.normal(size=(100, 6)) @ np.diag([4.0, 3.0, 2.0, 1.0, 1.0, 1.0])
    b = a[:, :4] + generator.normal(size=(100, 4))
    value = linear_cka(a, b)
    rotation = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    # Sums of 100 products with cancellation in the centring: a few hundred units of 1e-16.
    near = {"rel": 1e-12}
    assert 0.1 < value < 0.99
    assert linear_cka(b, a) == pytest.approx(value, **near)
    assert linear_cka(a @ rotation, b) == pytest.approx(value, **near)
    assert linear_cka(-7 * a + 3, 0.01 * b - 5) == pytest.approx(value, **near)
    assert linear_cka(a[::-1], b[::-1]) == pytest.approx(value, **near)
    assert linear_cka(a, 2 * a @ rotation) == pytest.approx(1, **near)
    # It is no canonical correlation: an invertible map that is not a rotation changes it.
    assert linear_cka(a @ np.diag([1.0, 1, 1, 1, 1, 30]), a) < 0.5
    # The pairing of samples matters.
    assert linear_cka(a, np.roll(b, 1, 0)) < 0.2
    # Rounding leads about one scaled copy in three above 1.
    assert all(linear_cka(x, 3 * x) <= 1 for x in generator.normal(size=(50, 9, 3)))


def test_linear_cka_is_the_ratio_of_centred_gram_matrices():
    generator = torch.Generator().manual_seed(0)
    # Float32 features far from zero: their Gram matrix in float32 would keep no digit of the differences.
    a, b = torch.randn(20, 30, generator=generator) + 1e4, torch.randn(20, 5, generator=generator) + 1e4
    centre = torch.eye(20, dtype=torch.float64) - 1 / 20
    k, m = (centre @ x.double() @ x.double().T @ centre for x in (a, b))
    # Gram entries of 3e9 are rounded at 5e-7 in each of 30 additions: at most 3e-4 in the norm of the 20 × 20
    # matrix, against norms of 170 and 50.
    assert linear_cka(a, b) == pytest.approx(((k * m).sum() / (k.norm() * m.norm())).item(), rel=1e-5)
    assert linear_cka(a, b) == linear_cka(a.double(), b.double())


def test_linear_cka_of_independent_features():
    # About D / (D + N) = 1/2: with N = D = 200 the docstring's figure is good to a few percent.
    a, b = np.random.default_rng(0).normal(size=(2, 200, 200))
    assert linear_cka(a, b) == pytest.approx(0.5, abs=0.02)


def test_linear_cka_refuses():
    with pytest.raises(ValueError, match="features_b: got 3 samples, want the 2 of features_a"):
        linear_cka([[0.0], [1.0]], [[0.0], [1.0], [2.0]])
    with pytest.raises(ValueError, match="features_b: got 3 equal rows"):
        linear_cka([[0.0], [1.0], [2.0]], [[0.1], [0.1], [0.1]])
    with pytest.raises(ValueError, match=r"features_a: got float64 \[2\], want \[N, D\]"):
        linear_cka([0.0, 1.0], [[0.0], [1.0]])


def test_codes_changed_by_hand():
    before = {"a": torch.tensor([[1, -2], [3, 4]], dtype=torch.int8), "b": torch.tensor([7], dtype=torch.int8)}
    after = {"a": torch.tensor([[1, 2], [3, 4]], dtype=torch.int8), "b": torch.tensor([-8], dtype=torch.int8)}
    # One of four and one of one: 2 of 5, not the mean of the layers' shares, 5/8.
    assert codes_changed(before, after) == 2 / 5
    assert codes_changed(after, before) == 2 / 5
    assert codes_changed(before, before) == 0


def test_codes_changed_refuses():
    codes = {"a": torch.zeros(4, dtype=torch.int8)}
    with pytest.raises(ValueError, match=r"after: got layers \['b'\], want those of before, \['a'\]"):
        codes_changed(codes, {"b": codes["a"]})
    with pytest.raises(ValueError, match=r"after: got layers \['a', 'b'\]"):
        codes_changed(codes, codes | {"b": codes["a"]})
    with pytest.raises(ValueError, match=r"got int8 \[4\] and int8 \[2, 2\] for 'a', want integers of one shape"):
        codes_changed(codes, {"a": codes["a"].view(2, 2)})
    with pytest.raises(ValueError, match=r"got int8 \[4\] and float64 \[4\] for 'a'"):
        codes_changed(codes, {"a": torch.zeros(4)})
    for nothing in ({}, {"a": torch.zeros(0, dtype=torch.int8)}):
        with pytest.raises(ValueError, match="before: got no codes"):
            codes_changed(nothing, nothing)


def test_steps_to_recover_by_hand():
    curve = torch.tensor([0.1, 0.5, 0.9, 0.8, 0.95], dtype=torch.float64)
    assert steps_to_recover(curve, 0.9) == 2  # at the target counts, and a later fall does not
    assert steps_to_recover(curve, 0.91) == 4
    assert steps_to_recover(curve, 0.0) == 0
    assert steps_to_recover(curve, 0.96) is None


def test_steps_to_recover_refuses():
    with pytest.raises(ValueError, match=r"accuracies: got nan at \[1\]"):
        steps_to_recover([0.1, math.nan], 0.5)
    with pytest.raises(ValueError, match=r"accuracies: got float64 \[0\]"):
        steps_to_recover([], 0.5)
    with pytest.raises(ValueError, match="target: got nan"):
        steps_to_recover([0.1], math.nan)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_unit_of_features_does_not_matter_to_cka(unit):
    """Squares of such features are 0 or infinity, and the quotient of those was taken for 1."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    want = linear_cka(a, b)
    assert want < 0.7
    assert linear_cka(unit * a, b) == pytest.approx(want, rel=1e-12)
    assert linear_cka(unit * a, unit * b) == pytest.approx(want, rel=1e-12)
