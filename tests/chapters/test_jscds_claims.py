"""Verdicts on made-up tables in which the answer is known."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from palimpsest.chapters.jscds import claims, cost
from palimpsest.chapters.jscds.cohort import COMPLETE, PROFILES, RESNET
from palimpsest.chapters.jscds.experiment import Arm, Results, arms

SEEDS = range(10)


def made_up(**gains: float) -> Results:
    """A complete table: every arm scores 70 % with a little noise shared within a seed, plus the gains given in
    points as `method=gain`; `full` is the full set."""
    noise = np.random.default_rng(0).normal(0, 0.01, len(SEEDS))
    own = np.random.default_rng(1)
    rows = []
    for condition in PROFILES["ci"].conditions:
        for arm in (Arm("full", 1.0), *arms(condition, RESNET)):
            for seed in SEEDS:
                gain = gains.get(f"{arm.method} {arm.fraction}", gains.get(arm.method, 0.0)) / 100
                accuracy = 0.7 + gain + noise[seed] + own.normal(0, 0.001)
                wrong = {"successor code": 0.36}.get(arm.method, 0.1)
                rows.append(
                    {
                        "architecture": RESNET,
                        "condition": condition,
                        **asdict(arm),
                        "seed": seed,
                        "accuracy": accuracy,
                        "wrong_kept": wrong,
                    }
                )
    geometry = pd.DataFrame(
        [
            {
                "condition": condition,
                "rank correlation.l2": 0.9,
                "overlap.L2 near-mean": 0.8 + 0.001 * seed,
                "overlap.successor code": 0.5 + 0.001 * seed,
                "overlap.another start of the scorer": 0.6 + 0.002 * seed,
            }
            for condition in COMPLETE
            for seed in SEEDS
        ]
    )
    return Results(pd.DataFrame(), pd.DataFrame(rows), geometry, {})


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [({"jscds": 2.0}, "supported"), ({}, "no effect"), ({"jscds": -2.0}, "contradicted")],
)
def test_half(gains, verdict):
    judgement = claims.half(made_up(**gains))
    assert judgement.verdict == verdict
    assert judgement.measured.mean == pytest.approx(gains.get("jscds", 0.0), abs=0.2)
    assert judgement.measured.n == len(SEEDS)


def test_half_names_the_condition_under_which_it_wins():
    results = made_up()
    noisy = (results.rows.condition == "symmetric 40 %") & (results.rows.method == "jscds")
    results.rows.loc[noisy, "accuracy"] += 0.03
    judgement = claims.half(results)
    assert judgement.verdict == "no effect"
    assert "symmetric 40 %" in judgement.why


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ({"jscds 0.5": 1.0, "jscds 0.7": 3.0}, "supported"),
        ({"jscds 0.5": -3.0, "jscds 0.7": 0.0, "full": -0.1}, "no effect"),  # an advantage too small to notice
        ({"jscds 0.5": -3.0, "jscds 0.7": -1.5}, "contradicted"),  # it grows, but it is no advantage
        ({"jscds 0.5": 3.0, "jscds 0.7": 1.5}, "contradicted"),  # an advantage that shrinks
    ],
)
def test_seventy(gains, verdict):
    assert claims.seventy(made_up(**gains)).verdict == verdict


def test_best_needs_every_rival_beaten():
    assert claims.best(made_up(jscds=2.0)).verdict == "supported"
    one_ahead = claims.best(made_up(jscds=2.0, moderate=4.0))
    assert one_ahead.verdict == "contradicted"
    assert "behind 1 (moderate)" in one_ahead.why
    one_equal = claims.best(made_up(jscds=2.0, moderate=2.0))
    assert one_equal.verdict == "no effect"


def test_nonlinear_follows_the_accuracy_difference():
    assert claims.nonlinear(made_up(jscds=2.0)).verdict == "supported"
    alike = claims.nonlinear(made_up())
    assert alike.verdict == "no effect"
    assert "keep 80 % of the same samples, while JSD on a scorer from another start keeps 61 %" in alike.why


def test_text_and_code_differ_by_subset_and_accuracy():
    assert claims.text_vs_code(made_up(**{"successor code": -5.0})).verdict == "supported"
    assert claims.text_vs_code(made_up()).verdict == "no effect"
    same = made_up(**{"successor code": -5.0})
    same.geometry["overlap.successor code"] = 0.95
    assert claims.text_vs_code(same).verdict == "contradicted"


def costs(**totals):
    rows = [{"method": m, "signals": 1.0, "scoring": 0.1, "total": t} for m, t in totals.items()]
    return pd.DataFrame(rows)


def test_fast_is_the_total_over_one_training_and_names_who_costs_less():
    judgement = claims.fast(costs(full=10, random=5, jscds=12, el2n=13, moderate=11))
    assert judgement.verdict == "inconclusive"
    assert judgement.measured.mean == 1.2
    assert "1 of 2 methods that look at the data cost less in all (moderate)" in judgement.why


def test_multiply_adds_by_hand():
    """A 1×1 grey image through ResNet-18-slim's first convolution would see one pixel; count the head instead."""
    import torch

    table = cost.count("ci").set_index("method")
    setting = PROFILES["ci"]
    x = torch.zeros(1, 1, 28, 28)
    forward, step = cost.multiply_adds(RESNET, x)
    # The stem alone: 14·14 positions × 8 channels × 7·7 weights.
    assert forward > 14 * 14 * 8 * 49
    # Backward costs two forwards, less the input gradient of the stem.
    assert 2.5 * forward < step < 3 * forward
    assert table.total["full"] == setting.epochs * setting.samples * step
    assert table.final["jscds"] == table.total["full"] / 2
    assert table.total["random"] == table.total["full"] / 2
    assert table.signals["jscds"] == setting.samples * (setting.epochs * step + forward)
    assert table.scoring["jscds"] == 10 * setting.samples * 64


def test_a_method_whose_operations_are_not_counted_is_refused():
    with pytest.raises(ValueError, match="method: got 'another', whose operations are not counted"):
        cost.scoring_operations("another", 100, 64, 10)
    assert cost.scoring_operations("grand", 100, 64, 10) == 0
