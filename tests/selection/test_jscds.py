"""JSCDS and its divergences, on five samples whose arithmetic fits in a comment.

Logits (0, 0), (±ln 3, 0), (±ln 9, 0): their mean is (0, 0), so the centre is q = (1/2, 1/2) and the samples
are p = (1/2, 1/2), (3/4, 1/4), (1/4, 3/4), (9/10, 1/10), (1/10, 9/10).
"""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import selection
from palimpsest.selection import divergences

LN3, LN9 = math.log(3), math.log(9)
FIVE = torch.tensor([[0, 0], [LN3, 0], [-LN3, 0], [LN9, 0], [-LN9, 0]], dtype=torch.float64)
ONE_CLASS = torch.zeros(5, dtype=torch.int64)

# m is (5/8, 3/8) for p = (3/4, 1/4), and (7/10, 3/10) for p = (9/10, 1/10). By symmetry each comes twice.
JSD_3 = (
    (3 / 4 * math.log(6 / 5) + 1 / 4 * math.log(2 / 3)) + (1 / 2 * math.log(4 / 5) + 1 / 2 * math.log(4 / 3))
) / 2
JSD_9 = (
    (9 / 10 * math.log(9 / 7) + 1 / 10 * math.log(1 / 3)) + (1 / 2 * math.log(5 / 7) + 1 / 2 * math.log(5 / 3))
) / 2
EXPECTED = {
    "jsd": (JSD_3, JSD_9),
    # ½(p − q)·(log p − log q): ½ · 1/4 · ln 3 and ½ · 2/5 · ln 9.
    "half_jeffreys": (LN3 / 8, LN9 / 5),
    # KL(p‖q), not KL(q‖p), which would be ½ ln(2/3) + ½ ln 2 for the first.
    "kl": (
        3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2),
        9 / 10 * math.log(9 / 5) + 1 / 10 * math.log(1 / 5),
    ),
    "l2": (LN3, LN9),
}


@pytest.mark.parametrize("divergence", sorted(EXPECTED))
def test_each_divergence_by_hand(divergence):
    three, nine = EXPECTED[divergence]
    got = selection.divergence_to_centre(FIVE, ONE_CLASS, divergence)
    # A handful of operations on numbers of order one, the kernel's float32 path allowed for: 2⁻²³ each.
    torch.testing.assert_close(got.tolist(), [0.0, three, three, nine, nine], rtol=0, atol=10 * 2**-23)


# J = 0, .0338 twice, .1017 twice; mean .0542, median .0338.
# |J − mean| = .0542, .0204, .0475; |J − median| = .0338, 0, .0679.
@pytest.mark.parametrize(
    ("rule", "fraction", "kept"),
    [
        ("near_mean", 0.4, [1, 2]),
        ("near_mean", 0.8, [1, 2, 3, 4]),
        ("near_median", 0.4, [1, 2]),
        ("near_median", 0.6, [0, 1, 2]),
        ("nearest", 0.2, [0]),
        ("nearest", 0.6, [0, 1, 2]),
        ("farthest", 0.4, [3, 4]),
        ("farthest", 0.8, [1, 2, 3, 4]),
    ],
)
def test_each_rule_by_hand(rule, fraction, kept):
    assert selection.select(FIVE, ONE_CLASS, fraction, rule=rule).tolist() == kept


def test_presets_by_hand():
    assert selection.select(FIVE, ONE_CLASS, 0.4, preset="paper_text").tolist() == [1, 2]
    assert selection.select(FIVE, ONE_CLASS, 0.4, preset="successor_code").tolist() == [3, 4]
    assert dataclasses.astuple(selection.PRESETS["paper_text"]) == (
        "jsd", "penultimate", "near_mean", "trained", "class",
    )  # fmt: skip
    assert dataclasses.astuple(selection.PRESETS["successor_code"]) == (
        "half_jeffreys", "logits", "farthest", "fresh_head", "class",
    )  # fmt: skip


def test_a_switch_overrides_the_preset():
    assert selection.select(FIVE, ONE_CLASS, 0.4, preset="successor_code", rule="near_mean").tolist() == [
        1,
        2,
    ]
    # L2 gives 0, 1.10, 1.10, 2.20, 2.20 with mean 1.32: the same band as JSD here, so the values decide.
    assert selection.select(FIVE, ONE_CLASS, 0.2, divergence="l2", rule="nearest").tolist() == [0]


def test_divergence_switch_changes_the_choice():
    # Centre (0, 0) again. Adding one number to both logits moves the L2 distance and leaves the
    # softmax alone:
    # sample 0 is 7√2 away and J = 0; sample 2 is ln 3 away and J > 0.
    features = torch.tensor([[7.0, 7.0], [-7.0, -7.0], [LN3, 0.0], [-LN3, 0.0]])
    labels = torch.zeros(4, dtype=torch.int64)
    assert selection.select(features, labels, 0.5, rule="farthest", divergence="jsd").tolist() == [2, 3]
    assert selection.select(features, labels, 0.5, rule="farthest", divergence="l2").tolist() == [0, 1]


def test_scope_by_hand():
    # L2, exact in binary. Class 0: centre 0, distances 6, 2, 3, 5, mean 4. Class 1: centre 10, all at 1.
    # All eight: mean 20/8 = 2.5, |d − 2.5| = 3.5, .5, .5, 2.5, 1.5, 1.5, 1.5, 1.5.
    features = torch.tensor([-6.0, -2.0, 3.0, 5.0, 9.0, 11.0, 9.0, 11.0])[:, None]
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    keep = {
        scope: selection.select(features, labels, 0.25, divergence="l2", rule="near_mean", scope=scope).tolist()
        for scope in ("class", "global")
    }
    # In class 0, indices 2 and 3 tie at |d − 4| = 1, and in class 1 all do: the lower index stays.
    assert keep == {"class": [2, 4], "global": [1, 2]}
    farthest = selection.select(features, labels, 0.5, divergence="l2", rule="farthest", scope="global")
    assert farthest.tolist() == [0, 1, 2, 3]


def test_centres_are_of_the_own_class():
    features = torch.tensor([[0.0], [2.0], [100.0], [108.0]])
    values = selection.divergence_to_centre(features, torch.tensor([3, 3, 7, 7]), "l2")
    assert values.tolist() == [1.0, 1.0, 4.0, 4.0]


def test_half_jeffreys_stays_finite_where_softmax_then_log_does_not():
    # p = (1, e⁻²⁰⁰), q = (1/2, 1/2): ½ · ½ · 200 = 50 up to e⁻²⁰⁰. In float32 e⁻²⁰⁰ is 0.
    sample, centre = torch.tensor([[200.0, 0.0]]), torch.tensor([0.0, 0.0])
    assert divergences.half_jeffreys(sample, centre).item() == pytest.approx(50, rel=8 * 2**-23)
    assert divergences.half_jeffreys_softmax_log(sample, centre).item() == math.inf
    assert divergences.half_jeffreys_softmax_log(sample, sample[0]).isnan().item()
    assert divergences.half_jeffreys(sample, sample[0]).item() == 0


def test_both_arithmetics_agree_where_nothing_underflows():
    centre = FIVE.mean(0)
    ours, theirs = (
        divergences.half_jeffreys(FIVE, centre),
        divergences.half_jeffreys_softmax_log(FIVE, centre),
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=16 * 2**-52)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["jsd", "half_jeffreys", "kl", "l2"]), st.floats(0.1, 1))
def test_every_kept_sample_is_at_least_as_near_the_mean_as_every_dropped_one(seed, divergence, fraction):
    generator = torch.Generator().manual_seed(seed)
    features = 3 * torch.randn(40, 5, generator=generator)
    labels = torch.arange(40) % 4
    kept = selection.select(features, labels, fraction, divergence=divergence)
    values = selection.divergence_to_centre(features, labels, divergence)
    chosen = torch.zeros(40, dtype=torch.bool)
    chosen[kept] = True
    for c in range(4):
        own = labels == c
        gap = (values - values[own].mean()).abs()
        assert own[kept].sum() == math.floor(fraction * 10 + 0.5)
        if (own & ~chosen).any():
            assert gap[own & chosen].max() <= gap[own & ~chosen].min()


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 50))
def test_divergences_are_bounded_and_ordered(seed, scale):
    samples = scale * torch.randn(9, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = torch.zeros(9, dtype=torch.int64)
    jsd = selection.divergence_to_centre(samples, labels, "jsd")
    jeffreys = selection.divergence_to_centre(samples, labels, "half_jeffreys")
    slack = 100 * 2**-23  # the kernel may work in float32
    assert (jsd >= -slack).all()
    assert (jsd <= math.log(2) + slack).all()
    # Lin 1991, theorem 3: JSD is at most a quarter of Jeffreys, which is half of half_jeffreys.
    assert (jsd <= jeffreys / 2 + slack).all()


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (
            {"divergence": "wasserstein"},
            "divergence is 'wasserstein'; choose one of: half_jeffreys, jsd, kl, l2",
        ),
        ({"rule": "middle"}, "rule is 'middle'; choose one of: farthest, near_mean, near_median, nearest"),
        ({"scope": "batch"}, "scope is 'batch'; choose one of: class, global"),
        ({"space": "logits"}, "'jscds' has no switch 'space'; its switches: divergence, rule, scope"),
        ({"preset": "authors"}, "preset is 'authors'; choose one of: paper_text, successor_code"),
        ({"preset": ["paper_text"]}, "preset is "),
    ],
)
def test_unknown_switches_are_refused_with_the_choices(switches, message):
    with pytest.raises(ValueError, match=message):
        selection.select(FIVE, ONE_CLASS, 0.4, **switches)


@pytest.mark.parametrize(("field", "value"), [("space", "pixels"), ("scorer", "none")])
def test_presets_refuse_unknown_values(field, value):
    with pytest.raises(ValueError, match=f"{field} is '{value}'; choose one of"):
        dataclasses.replace(selection.PRESETS["paper_text"], **{field: value})


def test_a_global_budget_is_never_nothing():
    assert len(selection.select(FIVE, ONE_CLASS, 0.05, scope="global")) == 1


def test_divergence_to_centre_refuses_bad_input():
    with pytest.raises(ValueError, match="divergence is 'emd'"):
        selection.divergence_to_centre(FIVE, ONE_CLASS, "emd")
    with pytest.raises(ValueError, match="labels has shape"):
        selection.divergence_to_centre(FIVE, ONE_CLASS[:3])
