"""Verdicts of the two unlearning chapters on made-up tables in which the answer is known."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from unlearning_tables import SEEDS, VALUES, changes, made_up, margins, noises, pairs

from palimpsest import ledger
from palimpsest.chapters.unlearning_quantised import experiment, judging, oeu_claims, qmul_claims
from palimpsest.chapters.unlearning_quantised.arms import BASELINES, FIXED, LABEL_METHODS
from palimpsest.chapters.unlearning_quantised.probes import slope


@pytest.fixture(scope="module", autouse=True)
def cheap():
    """A judgement reads the claims' files; here there are hundreds of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "claims", cache(ledger.claims))
        yield


# Q-MUL.


@pytest.mark.parametrize(("factor", "verdict"), [(2.0, "supported"), (0.5, "contradicted"), (1.0, "no effect")])
def test_noise_is_the_growth_of_the_label_noise(factor, verdict):
    measured = noises(**{"label_noise@W4A4": 3 * factor, "label_noise@float": 3})
    judgement = qmul_claims.noisy(measured)
    assert judgement.verdict == verdict
    assert judgement.measured.mean == pytest.approx(np.log(factor), abs=0.04)
    mean = measured[measured.loss == "random labels"].groupby("precision").label_noise.mean()
    assert (
        f"by precision: float {mean['float']:.3f}, W8A8 {mean['W8A8']:.3f}, W4A4 {mean['W4A4']:.3f}" in judgement.why
    )


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "supported"), (2.0, "contradicted"), (1.0, "no effect")])
def test_similar_is_the_noise_of_a_batch(factor, verdict):
    columns = {("original", "FA"): 0.99, ("similar labels", "FA"): 0.85, ("random label", "FA"): 0.79}
    measured = noises(**{"noise@similar": 4 * factor, "noise@random": 4})
    judgement = qmul_claims.similar(made_up(columns, similar_labels=7.0), measured)
    assert judgement.verdict == verdict
    assert judgement.measured.mean == pytest.approx(np.log(factor), abs=0.04)
    assert "minus that of random ones is -2.9 points" in judgement.why or "is -3.0 points" in judgement.why
    assert "FA falls by +14." in judgement.why


def test_noises_that_differ_without_a_direction_are_inconclusive():
    measured, shaken = noises(), np.array([10, 0.1, 10, 0.1, 1])
    random = measured.loss == "random labels"
    measured.loc[random & (measured.precision == "W4A4"), ["noise", "label_noise"]] *= shaken[:, None]
    assert qmul_claims.noisy(measured).verdict == "inconclusive"
    assert qmul_claims.similar(made_up(), measured).verdict == "inconclusive"


def test_agr_gains_against_the_best_constant_and_stays_balanced():
    ahead = made_up(**{"Q-MUL": 7.0})
    judgement = qmul_claims.agr(ahead, pairs(balance=0.1))
    assert judgement.verdict == "supported"
    assert judgement.measured.mean == pytest.approx(3, abs=0.3)
    assert "w_f is 0.20 on average" in judgement.why
    assert "w_f G_f is 1.1" in judgement.why
    assert qmul_claims.agr(ahead, pairs(balance=np.log(4))).verdict == "contradicted"
    assert qmul_claims.agr(ahead, pairs(balance=0.1, spread=2.0)).verdict == "inconclusive"
    assert qmul_claims.agr(made_up(), pairs(balance=0.1)).verdict == "no effect"
    assert qmul_claims.agr(made_up(**{"Q-MUL": 13.0}), pairs(balance=0.1)).verdict == "contradicted"


def test_the_balance_is_that_of_the_ends_of_the_epochs():
    table = pairs(spread=0.0)
    table.loc[table.balance.notna(), "balance"] = np.tile([0.2, 0.6], len(SEEDS))
    assert qmul_claims.drifts(table).tolist() == pytest.approx([0.4] * len(SEEDS))


def test_best():
    assert qmul_claims.best(made_up(**{"Q-MUL": 7.0})).verdict == "supported"
    few = {"Q-MUL": 9.0, "random_label": 12.0, "SalUn": 12.0, "SCRUB": 8.95}
    assert qmul_claims.best(made_up(**few)).verdict == "no effect"
    worse = qmul_claims.best(made_up(**{"Q-MUL": 9.0, "SCRUB": 4.0, "original": 15.0, "retrain_again": 3.0}))
    assert worse.verdict == "contradicted"
    assert worse.measured.mean == pytest.approx(-5, abs=0.3)
    assert "the strongest is SCRUB" in worse.why
    assert "that of doing nothing 15." in worse.why or "that of doing nothing 14.9" in worse.why
    assert "one class -5." in worse.why or "one class -4.9" in worse.why
    assert "points [" in worse.why.split("under two names differs by ")[1]
    assert set(BASELINES) & {"Q-MUL", "OEU"} == set()


def test_quant_specific():
    assert qmul_claims.quant_specific(made_up(**{"Q-MUL@W4A4": 7.0})).verdict == "supported"
    assert qmul_claims.quant_specific(made_up(**{"Q-MUL": 7.0})).verdict == "no effect"
    assert qmul_claims.quant_specific(made_up(**{"Q-MUL@W4A4": 13.0})).verdict == "contradicted"


# OEU.


def injected(spread: float = 0.01, **excess: float) -> pd.DataFrame:
    """The table of `probes.injected_labels`: Retrain gives the label to a tenth, a method to `excess` more (0.3)."""
    own = np.random.default_rng(5)
    return pd.DataFrame(
        [
            {
                **{"method": method, "seed": seed, "of_retrain": 0.1},
                "agreement": 0.1 + excess.get(method.replace(" ", "_"), 0.3) + spread * own.normal(),
            }
            for method in (*FIXED, "fine-tune", "OEU")
            for seed in SEEDS
        ]
    )


def test_misremember_is_the_excess_of_injected_labels():
    judgement = oeu_claims.misremember(injected(SalUn=0.2, OEU=0.0))
    assert judgement.verdict == "supported"
    assert judgement.measured.mean == pytest.approx(20, abs=2)
    assert "Retrain itself gives it to 10.0 %" in judgement.why
    controls = judgement.why.split("Controls")[1]
    assert [name in controls for name in ("fine-tune", "OEU", "SalUn")] == [True, True, False]
    assert oeu_claims.misremember(injected(SalUn=-0.2)).verdict == "contradicted"
    assert oeu_claims.misremember(injected(SalUn=0.0)).verdict == "no effect"
    assert oeu_claims.misremember(injected(0.2, SalUn=0.05)).verdict == "inconclusive"


def test_the_course_is_the_correlation_of_changes_from_the_original():
    results = made_up(courses={"OEU": 0.8, "SalUn": -0.3})
    assert oeu_claims.course(results, "OEU").tolist() == pytest.approx([0.8] * len(SEEDS))
    assert oeu_claims.course(results, "SalUn").tolist() == pytest.approx([-0.3] * len(SEEDS))
    assert oeu_claims.course(results, "retrain").tolist() == pytest.approx([1.0] * len(SEEDS))
    # By hand: changes (1, 0, −1) and (1, −1, 0) have the correlation 1 / 2.
    found = results.rows.query("forget_set == 'random 10 %' and precision == 'W4A4'")
    for method, values in {"original": [3, 3, 3], "retrain": [4, 3, 2], "OEU": [4, 2, 3]}.items():
        for i in found.index[found.method == method]:
            results.rows.at[i, "margins"] = values
    assert oeu_claims.course(results, "OEU").tolist() == pytest.approx([0.5] * len(SEEDS))
    # A run that diverged has no margins, and the others keep theirs.
    results.rows.at[found.index[(found.method == "OEU") & (found.seed == 302)][0], "margins"] = np.nan
    assert oeu_claims.course(results, "OEU").to_dict() == pytest.approx({s: 0.5 for s in SEEDS if s != 302})
    assert np.corrcoef(margins(0.25, 7), margins(1, 7, target=True))[0, 1] == pytest.approx(0.25)


def test_unbiased_is_a_course_nearer_to_that_of_retrain():
    columns = {("OEU", "entropy"): 1.5}
    judgement = oeu_claims.unbiased(made_up(columns, {"OEU": 0.8, "SalUn": 0.6}))
    assert judgement.verdict == "supported"
    assert judgement.measured.mean == pytest.approx(0.2)
    assert "retrain again 0.70, OEU 0.80" in judgement.why
    assert "SalUn 0.60" in judgement.why
    assert "OEU 1.50" in judgement.why
    assert oeu_claims.unbiased(made_up(courses={"OEU": 0.8, "SalUn": 0.9})).verdict == "contradicted"
    assert oeu_claims.unbiased(made_up(courses={"OEU": 0.55, "SalUn": 0.53})).verdict == "no effect"
    assert set(LABEL_METHODS) == set(FIXED)


def test_conflict_is_a_share_of_pairs_beside_that_of_retain_batches():
    judgement = oeu_claims.conflict(pairs(opposed=0.5, null=0.1, cost=0.3))
    assert judgement.verdict == "supported"
    assert judgement.measured.mean == pytest.approx(40, abs=5)
    assert "takes back 30." in judgement.why or "takes back 29." in judgement.why or "takes back 31." in judgement.why
    assert oeu_claims.conflict(pairs(opposed=0.1, null=0.5)).verdict == "contradicted"
    assert oeu_claims.conflict(pairs(opposed=0.5, cost=-0.3)).verdict == "contradicted"
    assert oeu_claims.conflict(pairs(opposed=0.3, null=0.3, spread=0.005)).verdict == "no effect"
    assert oeu_claims.conflict(pairs(opposed=0.5, cost=0.0, spread=0.01)).verdict == "no effect"
    assert oeu_claims.conflict(pairs(opposed=0.5, cost=0.1, spread=0.4)).verdict == "inconclusive"


def test_losses_at_equal_entropy_by_hand():
    looks = {
        # Reaches 2.0 and falls again; crosses 1.5 half-way between looks 1 and 2.
        (1, "OEU"): [(0.0, 0.1), (1.0, 0.3), (2.0, 0.5), (1.2, 9.0)],
        # Ends lower: its highest, 1.5, is what both reach.
        (1, "entropy only"): [(0.5, 0.2), (1.5, 0.8), (1.4, 0.7)],
        # Never rises above where it began: the loss is that of the first look, of the other run at 0.25 of its way.
        (2, "OEU"): [(0.5, 0.4), (0.3, 0.6)],
        (2, "entropy only"): [(0.25, 0.1), (1.25, 0.9)],
    }
    rows = [
        {"seed": seed, "method": method, "look": i, "entropy": entropy, "retain_loss": loss}
        for (seed, method), looked in looks.items()
        for i, (entropy, loss) in enumerate(looked)
    ]
    found = oeu_claims.at_equal_entropy(pd.DataFrame(rows[::-1]))  # in whatever order they come
    assert found.loc[1].to_dict() == pytest.approx({"OEU": 0.4, "entropy only": 0.8})
    assert found.loc[2].to_dict() == pytest.approx({"OEU": 0.4, "entropy only": 0.3})


def courses(saved: float, spread: float = 0.02) -> pd.DataFrame:
    """The table of `probes.along`: with projection the loss is e^saved times that without at every entropy."""
    own = np.random.default_rng(6)
    return pd.DataFrame(
        [
            {"seed": seed, "method": method, "look": i, "entropy": float(i), "retain_loss": 0.1 * (i + 1) * factor}
            for seed in SEEDS
            for method, factor in (("OEU", np.exp(saved + spread * own.normal())), ("entropy only", 1.0))
            for i in range(3)
        ]
    )


def left(share: float, spread: float = 0.01) -> pd.DataFrame:
    """The table of `probes.coefficients`: `share` of the change is left at W4A4, all of it in float."""
    own = np.random.default_rng(7)
    return pd.DataFrame(
        [
            {"precision": p, "seed": seed, "plain": 2.0, "projected": 2.0 * (s + spread * own.normal())}
            for p, s in (("float", 1.0), ("W4A4", share))
            for seed in SEEDS
        ]
    )


def test_first_order_is_the_loss_at_equal_entropy_and_what_other_batches_keep():
    judgement = oeu_claims.first_order(courses(-0.5), left(0.2), changes(2.0))
    assert judgement.verdict == "supported"
    assert judgement.measured.mean == pytest.approx(-0.5, abs=0.03)
    assert "0.20 of the first-order change is left" in judgement.why
    assert "is 2.00, without projection 1.00" in judgement.why
    assert "loss on the whole retain set is 0.18" in judgement.why
    assert "0.300 without" in judgement.why
    assert oeu_claims.first_order(courses(0.5), left(0.2), changes()).verdict == "contradicted"
    assert oeu_claims.first_order(courses(-0.5), left(0.9), changes()).verdict == "contradicted"
    assert oeu_claims.first_order(courses(0.0), left(0.2), changes()).verdict == "no effect"
    assert oeu_claims.first_order(courses(-0.5), left(0.5), changes()).verdict == "no effect"
    assert oeu_claims.first_order(courses(-0.3, 1.0), left(0.2), changes()).verdict == "inconclusive"


@pytest.mark.parametrize("power", [2.0, 1.5, 1.0])
def test_slopes_are_those_of_each_seed(power):
    found = oeu_claims.slopes(changes(power), "float", "g_f orthogonal")
    assert list(found.index) == list(SEEDS)
    assert found.tolist() == pytest.approx([power] * len(SEEDS), abs=0.02)
    assert oeu_claims.slopes(changes(power), "float", "g_f orthogonal", "other").mean() == pytest.approx(1, abs=0.02)


def test_slope_of_a_power_and_of_rounding():
    sizes = [10.0**e for e in range(-6, 0)]
    assert slope(sizes, [3 * s**2 for s in sizes]) == pytest.approx(2)
    assert slope(sizes, [-(s**1.5) for s in sizes]) == pytest.approx(1.5)
    assert np.isnan(slope(sizes, [1e-16] * 6))


def test_better():
    columns = {("OEU", "RA"): 0.99, ("OEU", "rte"): 0.35}
    judgement = oeu_claims.better(made_up(columns, OEU=6.0, retrain_again=2.0, original=20.0))
    assert judgement.verdict == "supported"
    assert judgement.measured.mean == pytest.approx(4, abs=0.3)
    assert "OEU 0.35, Q-MUL 0.20" in judgement.why
    assert oeu_claims.better(made_up(OEU=6.0)).verdict == "no effect", "RA is that of the others"
    assert oeu_claims.better(made_up(columns, OEU=13.0)).verdict == "contradicted"
    assert oeu_claims.better(made_up({("OEU", "RA"): 0.93}, OEU=6.0)).verdict == "contradicted"
    assert oeu_claims.better(made_up(columns, OEU=6.0, **{"Q-MUL": 6.0})).verdict == "no effect"
    assert "Q-MUL" in oeu_claims.RIVALS


# What both share.


def test_runs_that_diverged_are_left_out_of_a_comparison():
    results = made_up(**{"Q-MUL": 7.0})
    gone = (results.rows.method == "Q-MUL") & (results.rows.seed == 301)
    results.rows.loc[gone, "gap"] = np.nan
    found = judging.difference(results, "gap", "random label", "Q-MUL")
    assert found.n == 4
    assert found.mean == pytest.approx(3, abs=0.3)
    with pytest.raises(ValueError, match=r"no arm \(Q-MUL, W2A2, random 10 %\) was run"):
        results.column("gap", "Q-MUL", "W2A2")


def test_distances_to_retrain_are_percentages():
    results = made_up({("Q-MUL", "FA"): 0.9, ("SalUn", "FA"): 0.75, ("retrain", "FA"): 0.8})
    assert judging.to_retrain(results, "FA", "Q-MUL").mean() == pytest.approx(10, abs=0.3)
    assert judging.to_retrain(results, "FA", "SalUn").mean() == pytest.approx(5, abs=0.3)


def tuned_by(seed: int, others: float) -> experiment.Results:
    """At W4A4 Q-MUL is nearer than random label, by three points, at the value to which `seed` alone draws the tuning
    of all the other seeds; by `others` points at the other value, which they take without it; by 0.1 on `seed`."""
    results = made_up(tuned_on=4)
    tried = results.tried
    own = (tried.method == "Q-MUL") & (tried.precision == "W4A4")
    at_first = tried.value == VALUES[0]
    rival = results.column("gap", "random label")[tried.seed].to_numpy()
    ahead = np.where(tried.seed == seed, 0.1, np.where(at_first, 3.0, others))
    tried.loc[own, "gap"] = (rival - ahead)[own]
    tried.loc[own, "tuning_gap"] = np.where(at_first, 5.0, 4.0)[own]
    tried.loc[own & at_first & (tried.seed == seed), "tuning_gap"] = -5.0
    return results.without(None)


def test_a_verdict_that_one_seed_of_the_tuning_decides_is_inconclusive():
    results, judge = tuned_by(301, others=-3.0), qmul_claims.quant_specific
    assert results.values["W4A4", "Q-MUL"] == {seed: VALUES[seed == 301] for seed in SEEDS}
    assert judge(results).verdict == "supported"
    assert judge(results.without(301)).verdict == "contradicted"
    judgement = judging.steadied(results, judge)
    assert judgement.verdict == "inconclusive"
    assert judgement.why.startswith(
        "The rule gives 'supported', but 'contradicted' when one seed is left out of tuning: 1 (301). Q-MUL's gain"
    )
    assert judgement.measured == judge(results).measured
    # Where the other value does as well nothing is changed, the words neither.
    steady = tuned_by(301, others=3.0)
    assert judging.steadied(steady, judge) == judge(steady)
    assert judge(steady).verdict == "supported"


def test_a_judge_is_asked_once_per_seed_left_out():
    asked = []
    told = ledger.Judgement(
        "x", judging.within(pd.Series([1.0, 2.0]), pd.Series([0.0, 0.0])), "supported", 0.01, "so"
    )

    def judge(found):
        asked.append(found.left_out)
        return told if found.left_out not in (302, 304) else replace(told, verdict="no effect")

    assert (
        "'no effect' when one seed is left out of tuning: 2 (302, 304). so" in judging.steadied(made_up(), judge).why
    )
    assert asked == [None, *SEEDS]


# The whole.


def test_gate_stops_where_nothing_was_memorised():
    memorised = {("original", "FA"): 0.99}
    table = experiment.gate(made_up(memorised).rows)
    assert table["FA in excess, points"].between(18, 20).all()
    with pytest.raises(experiment.NotMemorised, match=r"W4A4, random 10 %, .* exceeds Retrain's by \d\.\d points"):
        experiment.gate(made_up({("original", "FA"): 0.82}).rows)


def test_every_claim_has_a_judgement_and_those_by_tuned_values_are_steadied(monkeypatch):
    steadied = []

    def once(results, judge):
        steadied.append((told := judge(results)).id)
        return told

    for module in (qmul_claims, oeu_claims):
        monkeypatch.setattr(module, "steadied", once)
    results = made_up()
    judged = set(qmul_claims.judgements(results, noises(), pairs()))
    judged |= set(oeu_claims.judgements(results, injected(), pairs(), courses(-0.5), left(0.2), changes()))
    assert judged == {claim.id for claim in ledger.claims().values() if claim.paper in ("Q-MUL", "OEU")}
    assert steadied == ["qmul-agr", "qmul-best", "qmul-quant-specific", "oeu-unbiased", "oeu-better"]
