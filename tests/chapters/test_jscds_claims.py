"""Verdicts on made-up tables in which the answer is known."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from palimpsest.chapters.jscds import claims, cost, networks
from palimpsest.chapters.jscds.cohort import PROFILES, RIVALS
from palimpsest.chapters.jscds.experiment import Results, arms

SEEDS = range(12)
TRAINED_CODE = "farthest, trained head"


def made_up(**gains: float) -> Results:
    """A complete table: every arm scores 70 % with a little noise shared within a seed, plus the gains given in
    points as `method=gain`, `method fraction=gain`, or `method fraction matched=gain`; "full" is the full set. Both
    step sizes give the same."""
    noise = np.random.default_rng(0).normal(0, 0.01, len(SEEDS))
    own = np.random.default_rng(1)
    rows = []
    for condition in PROFILES["ci"].conditions:
        for arm in arms(condition):
            names = [f"{arm.method} {arm.fraction} {arm.matched}", f"{arm.method} {arm.fraction}", arm.method]
            gain = next((gains[name] for name in names if name in gains), 0.0) / 100
            for seed in SEEDS:
                accuracy = 0.7 + gain + noise[seed] + own.normal(0, 0.001)
                row = {"condition": condition, **asdict(arm), "seed": seed, "accuracy": accuracy, "diverged": False}
                row |= {"validation": accuracy, "wrong_kept": {TRAINED_CODE: 0.36}.get(arm.method, 0.1)}
                rows += [{**row, "lr": lr} for lr in PROFILES["ci"].lr_grid]
    geometry = pd.DataFrame(
        {
            "seed": seed,
            "rank correlation.l2": 0.9,
            "rank correlation.expansion": 0.99,
            "overlap.L2 near-mean": 0.8 + 0.001 * seed,
            "overlap.farthest, trained head": 0.5 + 0.001 * seed,
            "overlap.another start of the scorer": 0.6 + 0.002 * seed,
        }
        for seed in SEEDS
    )
    return Results(pd.DataFrame(rows), geometry, pd.DataFrame(), pd.DataFrame())


def costs(**scorers: float) -> pd.DataFrame:
    """A table in which every method's scorer costs 10, but for `scorers`; scoring costs nothing to speak of."""
    names = ["full", "random", "jscds", "early jscds", "proxy jscds", *RIVALS]
    found = {name: 10.0 for name in names} | {"full": 0.0, "random": 0.0, "early jscds": 1.0} | scorers
    rows = [{"method": m, "scorer": s, "scoring": 1e-6, "final": 5.0 + 5 * (m == "full")} for m, s in found.items()]
    return pd.DataFrame(rows).drop_duplicates("method").assign(total=lambda t: t.scorer + t.scoring + t.final)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ({"jscds": 2.0}, "supported"),
        ({}, "no effect"),
        ({"jscds": -2.0}, "contradicted"),
        ({"jscds": 2.0, "jscds 0.5 updates": 0.0}, "no effect"),  # nothing is left when updates are equal
        ({"jscds": -2.0, "jscds 0.5 updates": 2.0}, "contradicted"),  # both are needed
    ],
)
def test_half(gains, verdict):
    judgement = claims.half(made_up(**gains))
    assert judgement.verdict == verdict
    assert judgement.measured.mean == pytest.approx(gains.get("jscds", 0.0), abs=0.2)
    assert judgement.measured.n == len(SEEDS)


def test_half_names_the_condition_under_which_it_wins():
    results = made_up()
    noisy = (results.rows.condition == "symmetric 40 %") & (results.rows.method == "jscds")
    results.rows.loc[noisy & (results.rows.fraction == 0.5), ["accuracy", "validation"]] += 0.03
    judgement = claims.half(results)
    assert judgement.verdict == "no effect"
    assert "ahead of the full set in 2 (symmetric 40 %, equal epochs, symmetric 40 %, equal updates)" in judgement.why
    assert "behind it in none of 4" in judgement.why


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


def test_the_placebo_is_no_rival():
    judgement = claims.best(made_up(**{"jscds": 2.0, "random again": 9.0}))
    assert judgement.verdict == "supported"
    floor = claims.floors(made_up(**{"random again": 9.0, "full again": 4.0}), "clean")
    assert floor["random minus random again"].mean == pytest.approx(-9, abs=0.2)
    assert floor["full minus full again"].mean == pytest.approx(-4, abs=0.2)


def test_nonlinear_follows_the_accuracy_difference():
    assert claims.nonlinear(made_up(jscds=2.0)).verdict == "supported"
    alike = claims.nonlinear(made_up())
    assert alike.verdict == "no effect"
    assert "keep 81 % of the same samples, while JSD on a scorer from another start keeps 61 %" in alike.why


def test_text_and_code_differ_by_subset_and_accuracy():
    assert claims.text_vs_code(made_up(**{TRAINED_CODE: -5.0})).verdict == "supported"
    assert claims.text_vs_code(made_up()).verdict == "no effect"
    same = made_up(**{TRAINED_CODE: -5.0})
    same.geometry[f"overlap.{TRAINED_CODE}"] = 0.95
    assert claims.text_vs_code(same).verdict == "contradicted"


def test_the_untrained_head_is_not_what_text_and_code_are_judged_by():
    judgement = claims.text_vs_code(made_up(**{"successor code": -9.0}))
    assert judgement.verdict == "no effect"
    assert "with an untrained one is +9.0" in judgement.why


def test_fast_compares_what_is_needed_before_the_subset_is_known():
    judgement = claims.fast(made_up(), costs())
    assert judgement.verdict == "no effect"  # four rivals may read the same early network
    assert judgement.measured.mean == pytest.approx(1, rel=1e-5)
    assert "as much as 4 (herding, k-center, low-loss, moderate) of 9" in judgement.why


def test_fast_can_pass_and_can_fail(monkeypatch):
    monkeypatch.setattr(claims, "READ_ONE", ())
    assert claims.fast(made_up(), costs()).verdict == "supported"
    assert claims.fast(made_up(), costs(el2n=0.5)).verdict == "contradicted"


def test_a_verdict_that_hangs_on_one_replication_is_inconclusive():
    """At 0.3 JSCDS gains two points, at 0.1 nothing; seed 0's validation images alone favour 0.3, for all others."""
    results = made_up()
    ours = results.rows.method.isin(["jscds"])
    results.rows.loc[ours & (results.rows.lr == 0.3), "accuracy"] += 0.02
    results.rows.loc[ours & (results.rows.lr == 0.3), "validation"] -= 0.01
    results.rows.loc[ours & (results.rows.lr == 0.3) & (results.rows.seed == 0), "validation"] += 0.5
    with_all, judged = claims.judged(results, costs()), claims.judgements(results, costs())
    assert with_all["jscds-best"].verdict == "supported"
    assert judged["jscds-best"].verdict == "inconclusive"
    assert "left out of tuning (0)" in judged["jscds-best"].why
    others = claims.without_one(results, costs())
    assert others.index.tolist() == list(SEEDS)
    assert (others["jscds-best"] != "supported").tolist() == [seed == 0 for seed in SEEDS]


def test_a_verdict_that_no_replication_changes_stays():
    judged = claims.judgements(made_up(jscds=2.0), costs())
    assert judged["jscds-half"].verdict == "supported"
    assert "left out" not in judged["jscds-half"].why


def test_multiply_adds_by_hand():
    table = cost.count("ci").set_index("method")
    setting = PROFILES["ci"]
    forward, step = cost.multiply_adds(setting.architecture, torch.zeros(1, 1, 28, 28))
    # Three convolutions, to 7·7, 4·4 and 2·2 places, and the head.
    assert forward == 49 * 16 * 16 + 16 * 32 * 144 + 4 * 64 * 288 + 640
    # Backward costs two forwards, less the input gradient of the first.
    assert step == 3 * forward - 49 * 16 * 16
    assert table.total["full"] == setting.epochs * setting.samples * step
    assert table.final["jscds"] == table.total["full"] / 2
    assert table.total["random"] == table.total["full"] / 2
    assert table.scorer["jscds"] == setting.samples * (setting.epochs * step + forward)
    assert table.scorer["early jscds"] == setting.samples * (setting.early_epoch * step + forward)
    assert table.scorer["proxy jscds"] < table.scorer["jscds"]
    assert table.scoring["jscds"] == 10 * setting.samples * 64


def test_a_method_whose_operations_are_not_counted_is_refused():
    with pytest.raises(ValueError, match="method: got 'another', whose operations are not counted"):
        cost.scoring_operations("another", 100, 64, 10)
    assert cost.scoring_operations("grand", 100, 64, 10) == 0


def test_every_rival_is_counted():
    counted = set(cost.count("smoke").method)
    assert {*RIVALS, "jscds", "early jscds", "proxy jscds"} <= counted
    assert set(cost.READ_ONE) <= set(RIVALS)


def test_networks_are_built_by_name_and_repeatably():
    shape = {"channels": 1, "classes": 10}
    one, two = (networks.build("conv3", **shape, seed=3) for _ in range(2))
    assert torch.equal(one.head.weight, two.head.weight)
    assert one.features(torch.zeros(2, 1, 28, 28)).shape == (2, 64)
    assert networks.build("conv3-half", **shape, seed=3).head.in_features == 32
    with pytest.raises(ValueError, match="name: got 'conv4'"):
        networks.build("conv4", **shape, seed=3)
