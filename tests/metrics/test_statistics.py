"""Intervals and decisions, on numbers worked by hand and against scipy's own tests."""

import math

import numpy as np
import pytest
from scipy import stats

from palimpsest.metrics.statistics import (
    Estimate,
    estimate,
    holm,
    holm_adjusted,
    needed,
    p_against,
    p_equivalent,
    paired,
)

# A handful of float64 operations, each off by at most one unit in the last place.
ULPS = 32 * np.finfo(float).eps


def test_estimate_by_hand():
    # Mean 3, squared deviations 4 + 1 + 0 + 1 + 4 = 10, variance 10/4, standard error sqrt(2.5/5) = 0.7071.
    # The 97.5 % point of t with four degrees of freedom is 2.776445 in every table.
    e = estimate([1, 2, 3, 4, 5])
    assert (e.mean, e.n) == (3.0, 5)
    assert e.sd == pytest.approx(math.sqrt(2.5), rel=ULPS)
    half = 2.776445 * math.sqrt(0.5)
    assert (e.low, e.high) == (pytest.approx(3 - half, abs=1e-6), pytest.approx(3 + half, abs=1e-6))


def test_two_values_by_hand():
    # t with one degree of freedom is Cauchy: p = 1 - 2·atan(t)/π, and its 97.5 % point is tan(0.475·π). Here the
    # mean is 2, sd sqrt(2), standard error 1, so t = 2.
    e = estimate([1.0, 3.0])
    assert e.p == pytest.approx(1 - 2 * math.atan(2) / math.pi, rel=1e-12)
    assert e.high - 2 == pytest.approx(math.tan(0.475 * math.pi), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10, 57])
@pytest.mark.parametrize("shift", [0.0, 0.3, -5.0])
def test_paired_is_scipys_paired_t_test(n, shift):
    generator = np.random.default_rng(n)
    a = generator.normal(size=n)
    b = a + shift + generator.normal(scale=0.5, size=n)
    expected = stats.ttest_rel(a, b)
    low, high = expected.confidence_interval(0.95)
    ours = paired(a, b)
    # The difference a - b is exact to a unit in the last place of numbers of the size of a and b.
    near = {"rel": 1e-9, "abs": 1e-12}
    assert ours.p == pytest.approx(expected.pvalue, **near)
    assert (ours.low, ours.high) == (pytest.approx(low, **near), pytest.approx(high, **near))
    assert ours.n == n
    assert (ours.low > 0 or ours.high < 0) == (ours.p < 0.05)


def test_pairing_is_by_position_and_signed():
    # Differences 1, 1, 4: mean 2, sd sqrt(3).
    e = paired([2, 3, 7], [1, 2, 3])
    assert e.mean == 2
    assert e.sd == pytest.approx(math.sqrt(3), rel=ULPS)
    assert paired([1, 2, 3], [2, 3, 7]).mean == -2


def test_values_without_spread():
    assert estimate([0.0, 0.0, 0.0]) == Estimate(0.0, 0.0, 3, 0.0, 0.0, 1.0)
    assert estimate([2.0, 2.0]) == Estimate(2.0, 0.0, 2, 2.0, 2.0, 0.0)
    assert paired([1, 2], [1, 2]).p == 1.0


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [math.inf, 1.0], 3.0, [[1.0, 2.0], [3.0, 4.0]], None])
def test_values_that_cannot_be_estimated_are_refused(values):
    with pytest.raises(ValueError, match=r"values: got .*want at least two finite numbers, one per seed"):
        estimate(values)


def test_unpaired_values_are_refused():
    with pytest.raises(ValueError, match=r"a, b: got shapes \(3,\) and \(2,\), want the same seeds"):
        paired([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match=r"values: got \[nan"):
        paired([math.nan, 1], [1, 2])


def test_holm_by_hand():
    # Four hypotheses at 0.05: thresholds 0.0125, 0.01667, 0.025, 0.05 for the sorted p values.
    p = {"a": 0.03, "b": 0.01, "c": 0.016, "d": 0.04}
    # 0.01 and 0.016 pass; 0.03 > 0.025 stops the procedure, so d is kept although 0.04 < 0.05.
    assert holm(p) == {"b", "c"}
    assert holm({"a": 0.013, "b": 0.9, "c": 0.9, "d": 0.9}) == set()  # Bonferroni at the first step
    assert holm({"a": 0.05}) == {"a"}  # at the threshold it is rejected
    assert holm(dict.fromkeys("abc", 0.01)) == {"a", "b", "c"}
    assert holm({}) == set()
    assert holm(p, level=0.2) == {"a", "b", "c", "d"}
    assert holm(p, level=0.01) == set()


def test_holm_refuses_what_is_no_probability():
    for bad in (math.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match=r"p_values: got .*, want numbers in"):
            holm({"a": 0.5, "b": bad})
        with pytest.raises(ValueError, match="level: got "):
            holm({"a": 0.5}, level=bad)


def test_holm_adjusted_by_hand():
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1, and never below the one before: 0.03, 0.06, 0.06.
    assert holm_adjusted([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm_adjusted([]) == []
    with pytest.raises(ValueError, match=r"p_values: got 1\.5, want numbers in"):
        holm_adjusted([1.5])


@pytest.mark.parametrize("bar", [-1.0, 0.0, 0.7])
def test_p_against_is_scipys_one_sample_t_test(bar):
    values = np.random.default_rng(3).normal(0.4, 1.0, 12)
    assert p_against(estimate(values), bar) == pytest.approx(stats.ttest_1samp(values, bar).pvalue, rel=1e-9)
    assert p_against(estimate([bar, bar]), bar) == 1.0
    assert p_against(estimate([bar, bar]), bar + 1) == 0.0


@pytest.mark.parametrize("n", [2, 5, 30])
def test_two_one_sided_tests_are_the_ninety_per_cent_interval(n):
    e = estimate(np.random.default_rng(n).normal(0.3, 1.0, n))
    low, high = stats.t.interval(0.90, n - 1, loc=e.mean, scale=e.sd / math.sqrt(n))
    edge = max(abs(low), abs(high))
    assert p_equivalent(e, 0.0, edge * 1.001) < 0.05 < p_equivalent(e, 0.0, edge * 0.999)
    assert p_equivalent(e, 2.0, edge * 1.001) == pytest.approx(
        p_equivalent(estimate_shifted(e, -2.0), 0.0, edge * 1.001)
    )


def estimate_shifted(e, by):
    return Estimate(e.mean + by, e.sd, e.n, e.low + by, e.high + by, e.p)


def test_needed_is_where_the_power_is_reached():
    # Cohen 1988, table 2.4.1 for one sample: d = 0.5, two-sided 5 %, power 0.8 wants 34.
    assert needed(2.0, 1.0) == 34
    rng = np.random.default_rng(0)
    draws = rng.normal(1.0, 2.0, (4000, 34))
    found = (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean()
    assert abs(found - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 4000)  # four standard errors of a share
    with pytest.raises(ValueError, match=r"sd, margin: got 0\.0 and 1\.0"):
        needed(0.0, 1.0)
