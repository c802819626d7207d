"""The grammar of verdicts, on estimates whose answer is known."""

import math

import pytest

from palimpsest.metrics.statistics import Estimate, counted, estimate
from palimpsest.verdicts import Quantity, decide, survivors

MORE = Quantity("more minus less", "points", "above", 1.0)
LESS = Quantity("less minus more", "points", "below", 1.0)
ALIKE = Quantity("one minus other", "points", "within", 1.0)
NONE = Quantity("changed", "bits", "zero", 0.0)


def around(mean: float, spread: float, n: int = 9) -> Estimate:
    """Nine values around `mean` with the sd `spread`."""
    values = [mean + spread * z for z in (-1.5, -1, -0.5, 0, 0, 0, 0.5, 1, 1.5)[:n]]
    return estimate(values)


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [
        (3.0, 1.0, "supported"),
        (-3.0, 1.0, "contradicted"),
        (0.1, 0.5, "no effect"),
        (0.5, 0.3, "no effect"),  # the interval excludes zero, but the effect is below the margin
        (-0.5, 0.3, "no effect"),
        (0.5, 6.0, "inconclusive"),
        (3.0, 9.0, "inconclusive"),
    ],
)
def test_an_interval_a_sign_and_a_margin_give_a_word(mean, spread, verdict):
    assert decide([(MORE, around(mean, spread))])[0] == verdict
    mirrored = {"supported": "contradicted", "contradicted": "supported"}.get(verdict, verdict)
    assert decide([(LESS, around(mean, spread))])[0] == mirrored


@pytest.mark.parametrize("shift", [-7.0, 0.0, 5.0])
def test_the_bar_moves_everything_with_it(shift):
    quantity = Quantity("share", "%", "above", 1.0, shift)
    assert decide([(quantity, around(3.0 + shift, 1.0))])[0] == "supported"
    assert decide([(quantity, around(shift - 3.0, 1.0))])[0] == "contradicted"
    assert decide([(quantity, around(shift + 0.1, 0.5))])[0] == "no effect"


def test_the_word_agrees_with_the_interval_that_is_printed():
    for mean in (0.1 * i for i in range(-60, 61)):
        e = around(mean, 3.0)
        half = (e.high - e.low) / 2
        assert half > 2  # so that nothing is within the margin
        expected = "supported" if e.low > 0 else "contradicted" if e.high < 0 else "inconclusive"
        assert decide([(MORE, e)])[0] == expected


def test_within_needs_the_ninety_per_cent_interval_inside():
    assert decide([(ALIKE, around(0.2, 0.6))])[0] == "supported"
    assert decide([(ALIKE, around(0.9, 0.6))])[0] == "inconclusive"
    assert decide([(ALIKE, around(-4.0, 1.0))])[0] == "contradicted"
    assert decide([(ALIKE, around(1.2, 1.0))])[0] == "inconclusive"


def test_one_count_contradicts():
    assert decide([(NONE, counted(0))])[0] == "supported"
    assert decide([(NONE, counted(1))])[0] == "contradicted"
    assert decide([(NONE, estimate([0, 0, 1]))])[0] == "contradicted"
    assert decide([(NONE, estimate([0, 0, 0])), (NONE, counted(2))])[0] == "contradicted"


def test_all_parts_must_hold_and_none_is_corrected():
    clear, open_ = around(3.0, 1.0), around(0.5, 6.0)
    assert decide([(MORE, clear)] * 13)[0] == "supported"
    assert decide([(MORE, clear)] * 12 + [(MORE, open_)])[0] == "inconclusive"
    assert decide([(MORE, clear)] * 12 + [(MORE, around(0.1, 0.3))])[0] == "no effect"


def test_one_of_many_parts_contradicts_only_beyond_holm():
    weak = around(-2.6, 3.5)
    assert weak.high < 0
    assert decide([(MORE, weak)])[0] == "contradicted"
    assert decide([(MORE, weak)] + [(MORE, around(3.0, 1.0))] * 12)[0] == "inconclusive"
    assert decide([(MORE, around(-3.0, 1.0))] + [(MORE, around(3.0, 1.0))] * 12)[0] == "contradicted"


def test_what_cannot_vary_is_compared_as_it_is():
    assert decide([(MORE, counted(2.0))])[0] == "supported"
    assert decide([(MORE, counted(-2.0))])[0] == "contradicted"
    assert decide([(MORE, counted(0.5))])[0] == "no effect"


def test_a_paper_s_claims_are_corrected_together():
    assert survivors({"a": 0.01, "b": 0.03}) == {"a", "b"}
    assert survivors({"a": 0.02, "b": 0.03, "c": 0.9}) == set()  # 3 · 0.02 > 0.05
    assert survivors({}) == set()


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_quantity_without_margin_is_refused(margin):
    with pytest.raises(ValueError, match=r"margin of 'more': got .*the smallest effect that matters"):
        Quantity("more", "points", "above", margin)
    if margin:
        with pytest.raises(ValueError, match="margin of 'more'"):
            Quantity("more", "points", "zero", margin)


def test_an_unknown_wish_and_no_part_at_all_are_refused():
    with pytest.raises(ValueError, match="wants of 'more': got 'up', want one of"):
        Quantity("more", "points", "up", 1.0)
    with pytest.raises(ValueError, match="parts: got none"):
        decide([])
