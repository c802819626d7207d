"""Confidence, histograms and wrong predictions, on cases worked by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from palimpsest.metrics.predictions import (
    chi_square_distance,
    entropy,
    margin,
    max_probability,
    prediction_histogram,
    wrong_concentration,
)

# A handful of float64 operations, each off by at most one unit in the last place.
ULPS = 32 * np.finfo(float).eps


def test_entropy_and_confidence_by_hand():
    # Probabilities 3/4 and 1/4: H = 3/4 ln 4/3 + 1/4 ln 4 = ln 4 - 3/4 ln 3. Equal logits: H = ln 2, 1/2.
    logits = np.array([[math.log(3), 0.0], [7.0, 7.0], [0.0, 1e5]])
    expected = [math.log(4) - 0.75 * math.log(3), math.log(2), 0]
    assert entropy(logits) == pytest.approx(expected, rel=ULPS)
    assert max_probability(logits) == pytest.approx([0.75, 0.5, 1], rel=ULPS)
    assert entropy(torch.from_numpy(logits)).tolist() == entropy(logits).tolist()
    # Float32 logits are computed to float64 rounding: -p ln p - (1 - p) ln(1 - p), the second term p up to p².
    p = 1 / (1 + math.exp(30))
    assert entropy(torch.tensor([[30.0, 0.0]])) == pytest.approx([p - p * math.log(p)], rel=0, abs=ULPS)


def test_margin_by_hand():
    # z = (ln 3, 0, 0): class 0 has ln 3 - ln 2, class 1 has 0 - ln(3 + 1).
    logits = torch.tensor([[math.log(3), 0.0, 0.0]] * 2, dtype=torch.float64)
    assert margin(logits, torch.tensor([0, 1])) == pytest.approx([math.log(1.5), -math.log(4)], rel=ULPS)
    assert logits.isfinite().all()  # the caller's logits are left as they were
    assert margin([[1000.0, -1000.0]], [0]).tolist() == [2000.0]


def test_margin_is_the_log_odds():
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(50, 7, generator=generator), torch.randint(0, 7, (50,), generator=generator)
    own = logits.double().softmax(1)[torch.arange(50), y]
    # 1 - p_y loses at most a few units of 1e-16 against probabilities above 1e-3 here.
    assert margin(logits, y) == pytest.approx((own / (1 - own)).log().numpy(), abs=1e-12)


def test_prediction_histogram_counts_absent_classes():
    assert prediction_histogram(torch.tensor([1, 3, 1, 1]), 5).tolist() == [0, 3, 0, 1, 0]


def test_chi_square_distance_by_hand():
    # Equal totals: shares (1/2, 1/2) and (1/4, 3/4), ½ [(1/16)/(3/4) + (1/16)/(5/4)] = ½ (1/12 + 1/20) = 1/15.
    assert chi_square_distance([2, 2], [1, 3]) == pytest.approx(1 / 15, rel=ULPS)
    # Unequal: columns 5 and 7 of 12, expected 10/3, 14/3 and 5/3, 7/3, each off by 2/3:
    # χ² = 4/9 (3/10 + 3/14 + 3/5 + 3/7) = 24/35, over 12 counts.
    assert chi_square_distance([4, 4], [1, 3]) == pytest.approx(2 / 35, rel=ULPS)


def test_chi_square_distance_symmetries():
    a, b = [30, 0, 12, 8], [20, 0, 15, 15]
    value = chi_square_distance(a, b)
    assert chi_square_distance(b, a) == pytest.approx(value, rel=ULPS)
    assert chi_square_distance(np.multiply(a, 10), np.multiply(b, 10)) == pytest.approx(value, rel=ULPS)
    assert chi_square_distance(a[::-1], b[::-1]) == pytest.approx(value, rel=ULPS)
    assert chi_square_distance(a, np.multiply(a, 3)) == pytest.approx(0, abs=ULPS)
    assert chi_square_distance([5, 0, 0], [0, 1, 6]) == pytest.approx(1, rel=ULPS)
    assert chi_square_distance([5, 0], [9, 0]) == 0


def test_chi_square_distance_between_samples_of_one_distribution():
    # χ² of two samples of n over K classes has mean K - 1 and variance 2 (K - 1) up to O(1/n): here 4 / 2000.
    generator = np.random.default_rng(0)
    draws = generator.multinomial(1000, [0.3, 0.3, 0.2, 0.1, 0.1], size=(500, 2))
    mean = np.mean([chi_square_distance(a, b) for a, b in draws])
    assert mean == pytest.approx(4 / 2000, abs=5 * math.sqrt(8 / 500) / 2000)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 2], [1, 2, 3], r"histogram_b: got 3 classes, want the 2 of histogram_a"),
        ([1, -1], [1, 2], r"histogram_a: got \[1\.0, -1\.0\], want whole numbers, none negative"),
        ([1, 2], [0.5, 0.5], r"histogram_b: got \[0\.5, 0\.5\], want whole numbers"),
        ([0, 0], [1, 2], r"histogram_a: .* with a sum above 0"),
    ],
)
def test_chi_square_distance_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        chi_square_distance(a, b)


def test_wrong_concentration_by_hand():
    # Class 0: wrong as 1, 1 and 2, so 2·1 / (3·2) = 1/3. Class 1: 0 and 0, so 1. Class 2: a single error, left out.
    # Class 3: no error, left out. The mean over classes 0 and 1 is 2/3.
    labels = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]
    predictions = [1, 1, 2, 0, 0, 0, 1, 2, 3, 3]
    assert wrong_concentration(predictions, labels, 4) == pytest.approx(2 / 3, rel=ULPS)
    # Predictions and labels are not interchangeable: here true class 0 has 1, 1, 2 and true class 1 has 0, 0.
    assert wrong_concentration(labels, predictions, 4) == pytest.approx(1, rel=ULPS)
    assert wrong_concentration([1, 2, 3], [0, 0, 0], 4) == 0


@pytest.mark.parametrize("n", [2, 3, 4])
def test_wrong_concentration_has_one_expectation_for_every_number_of_errors(n):
    # Errors fall on three classes with chance 1/2, 1/4, 1/4: two agree with chance 1/4 + 1/16 + 1/16 = 3/8. All
    # 3ⁿ outcomes are weighed. The largest share has expectation 11/16 at n = 2 and another at n = 3.
    chance = {1: 0.5, 2: 0.25, 3: 0.25}
    mean = sum(
        math.prod(chance[k] for k in outcome) * wrong_concentration(outcome, [0] * n, 4)
        for outcome in itertools.product(chance, repeat=n)
    )
    assert mean == pytest.approx(3 / 8, rel=1e-12)


def test_wrong_concentration_needs_two_errors_in_a_class():
    assert math.isnan(wrong_concentration([0, 1, 2], [0, 1, 2], 3))
    assert math.isnan(wrong_concentration([1, 0, 2], [0, 1, 2], 3))


def test_classes_are_checked():
    with pytest.raises(ValueError, match=r"predictions: got values in 0 \.\. 3, want \[N\] integers in 0 \.\. 2"):
        prediction_histogram([0, 3], 3)
    with pytest.raises(ValueError, match="classes: got 1, want an integer of at least 2"):
        prediction_histogram([0], 1)
    with pytest.raises(ValueError, match=r"labels: got int64 \[1\], want \[2\] integers"):
        wrong_concentration([0, 1], [0], 3)
    with pytest.raises(ValueError, match=r"y: got values in 3 \.\. 3"):
        margin([[0.0, 1.0, 2.0]], [3])
    for metric in (entropy, max_probability):
        with pytest.raises(ValueError, match=r"logits: got nan at \[0, 1\]"):
            metric([[0.0, math.nan]])
        with pytest.raises(ValueError, match=r"logits: got float64 \[2\], want \[N, C\]"):
            metric([0.0, 1.0])


def test_counts_too_large_to_be_added_are_refused():
    with pytest.raises(ValueError, match=r"histogram_b: got .* each below 2\^53"):
        chi_square_distance([1.0, 2.0], [1e308, 1e308])
