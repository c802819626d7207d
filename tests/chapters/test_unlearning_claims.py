"""Verdicts of the two unlearning chapters on made-up tables in which the answer is known."""

import numpy as np
import pandas as pd
import pytest

from palimpsest.chapters.unlearning_quantised import experiment, oeu_claims, qmul_claims
from palimpsest.chapters.unlearning_quantised.arms import LABEL_METHODS, METHODS, SWEEP
from palimpsest.chapters.unlearning_quantised.probes import slope

SEEDS = range(60, 65)


def made_up(columns: dict | None = None, **gaps: float) -> experiment.Results:
    """Every method has a gap of 10 points with a little noise shared within a seed, unless `gaps` names another
    (underscores for blanks); `columns` maps (method, column) to a value in the column's own units."""
    noise, own = np.random.default_rng(0).normal(0, 0.5, len(SEEDS)), np.random.default_rng(1)
    base = {"FA": 0.8, "RA": 0.97, "TA": 0.78, "MIA": 0.2, "wrong_confidence": 0.6, "concentration": 0.4}
    base |= {"entropy": 0.4, "chi2": 0.01, "rte": 0.2, "codes_changed": 0.1}
    rows = []
    for precision in SWEEP:
        for method in (*METHODS, "original", "retrain"):
            for i, seed in enumerate(SEEDS):
                name = f"{method}@{precision}".replace(" ", "_")
                gap = gaps.get(name, gaps.get(method.replace(" ", "_"), 10.0))
                row = {key: value + own.normal(0, 1e-3) for key, value in base.items()}
                row |= {c: v + own.normal(0, 1e-3) for (m, c), v in (columns or {}).items() if m == method}
                row |= {"method": method, "precision": precision, "forget_set": "random 10 %", "seed": seed}
                rows.append(row | {"gap": gap + noise[i] + own.normal(0, 0.1)})
    tuning = pd.DataFrame(
        [
            {"precision": "W4A4", "forget_set": "random 10 %", "method": m, "value": 0.01, "seed": 0, "gap": 5.0}
            for m in METHODS
        ]
    )
    log = pd.DataFrame(
        [
            {"method": "Q-MUL", "precision": "W4A4", "forget_set": "random 10 %", "epoch": e, **values}
            for e in range(2)
            for values in (
                {"weighted_forget": None, "weighted_retain": None, "weight_f": [0.1] * 5},
                {"weighted_forget": [6.0] * 5, "weighted_retain": None},
                {"weighted_forget": None, "weighted_retain": [5.0] * 5},
            )
        ]
    )
    return experiment.Results(tuning, pd.DataFrame(rows), log, {})


def geometry(**changes: float) -> pd.DataFrame:
    """G_f = 100 and G_r = 10 everywhere, unless `<loss>@<precision>` names another G_f."""
    own = np.random.default_rng(2)
    return pd.DataFrame(
        [
            {
                **{"precision": p, "loss": loss, "seed": seed, "cosine": -0.3, "G_r": 10.0},
                "G_f": changes.get(f"{loss.split()[0]}@{p}", changes.get(loss.split()[0], 100.0))
                + own.normal(0, 0.1),
            }
            for p in SWEEP
            for loss in ("random labels", "similar labels")
            for seed in SEEDS
        ]
    )


def test_noise_is_a_difference_of_gaps_beside_a_ratio_of_gradients():
    judgement = qmul_claims.noise(made_up(**{"random_label@W4A4": 14.0}), geometry(**{"random@W4A4": 150.0}))
    assert judgement.verdict == "inconclusive"
    assert judgement.measured.mean == pytest.approx(4, abs=0.3)
    assert "by the factors float 10.0, W8A8 10.0, W4A4 15.0" in judgement.why


def test_similar_is_a_difference_of_gaps():
    columns = {("original", "FA"): 0.99, ("similar labels", "FA"): 0.85}
    judgement = qmul_claims.similar(made_up(columns, similar_labels=7.0), geometry(similar=80.0))
    assert judgement.verdict == "inconclusive"
    assert judgement.measured.mean == pytest.approx(3, abs=0.3)
    assert "Similar labels change G_f from 100 to 80" in judgement.why


def test_agr_balance_is_the_ratio_of_the_means():
    results = made_up(**{"Q-MUL": 7.0})
    assert qmul_claims.balance(results).tolist() == pytest.approx([1.2] * 5)
    judgement = qmul_claims.agr(results)
    assert judgement.verdict == "inconclusive"
    assert judgement.measured.mean == pytest.approx(3, abs=0.3)
    assert "w_f G_f is 1.20 to 1.20 times w_r G_r" in judgement.why


def test_best():
    assert qmul_claims.best(made_up(**{"Q-MUL": 7.0})).verdict == "supported"
    few = {"Q-MUL": 9.0, "random_label": 12.0, "SalUn": 12.0, "SCRUB": 8.95}
    assert qmul_claims.best(made_up(**few)).verdict == "no effect"
    worse = qmul_claims.best(made_up(**{"Q-MUL": 9.0, "SCRUB": 4.0}))
    assert worse.verdict == "contradicted"
    assert worse.measured.mean == pytest.approx(-5, abs=0.3)
    assert "the strongest is SCRUB" in worse.why


def test_quant_specific():
    assert qmul_claims.quant_specific(made_up(**{"Q-MUL@W4A4": 7.0})).verdict == "supported"
    assert qmul_claims.quant_specific(made_up(**{"Q-MUL": 7.0})).verdict == "no effect"
    assert qmul_claims.quant_specific(made_up(**{"Q-MUL@W4A4": 13.0})).verdict == "contradicted"


def test_misremember_is_how_sure_wrong_predictions_are():
    results = made_up({(m, "wrong_confidence"): 0.8 for m in LABEL_METHODS})
    judgement = oeu_claims.misremember(results)
    assert judgement.verdict == "inconclusive"
    assert judgement.measured.mean == pytest.approx(20, abs=0.5)
    assert "Holm's correction, are: 3" in judgement.why


def test_misremember_without_wrong_predictions_looks_at_the_others():
    results = made_up({(m, "wrong_confidence"): 0.8 for m in LABEL_METHODS})
    results.rows.loc[(results.rows.method == "SalUn") & (results.rows.seed == 60), "concentration"] = np.nan
    assert oeu_claims.misremember(results).measured.mean == pytest.approx(20, abs=0.5)


def test_unbiased_is_a_distance_of_entropies():
    worst = oeu_claims.unbiased(made_up({("OEU", "entropy"): 2.0, ("OEU", "chi2"): 0.3}))
    assert worst.verdict == "inconclusive"
    assert worst.measured.mean == pytest.approx(1.6, abs=0.05)
    far = {(m, "entropy"): 1.2 for m in LABEL_METHODS} | {(m, "chi2"): 0.2 for m in LABEL_METHODS}
    assert "significantly nearer in 6" in oeu_claims.unbiased(made_up(far)).why


@pytest.mark.parametrize(("opposed", "cost"), [(0.5, 0.4), (0.5, 0.01), (0.0, 0.4)])
def test_conflict_is_a_share_of_pairs(opposed, cost):
    own = np.random.default_rng(3)
    pairs = pd.DataFrame(
        [
            {
                "seed": seed,
                "cosine": (-0.3 if own.random() < opposed else 0.3),
                "retain_alone": -1.0,
                "retain_change": -(1 - cost) + own.normal(0, 1e-3),
            }
            for seed in SEEDS
            for _ in range(60)
        ]
    )
    judgement = oeu_claims.conflict(pairs)
    assert judgement.verdict == "inconclusive"
    assert judgement.measured.mean == pytest.approx(100 * opposed, abs=8)
    taken = f"takes back +{100 * cost:.1f} %" if opposed else "takes back nothing"
    assert taken in judgement.why


def changes(power: float) -> pd.DataFrame:
    own = np.random.default_rng(4)
    return pd.DataFrame(
        [
            {
                **{"precision": p, "direction": d, "batch": b, "seed": seed, "step": 10.0**e},
                "change": 10.0 ** (e * (power if (d, b) == ("g_f orthogonal", "same") else 1))
                * (1 + own.random() / 50),
            }
            for p in ("float", "W4A4")
            for d, b in (
                ("g_f", "same"),
                ("g_f orthogonal", "same"),
                ("g_f orthogonal", "other"),
                ("momentum", "same"),
            )
            for seed in SEEDS
            for e in np.arange(-6, 0.1, 0.5)
        ]
    )


@pytest.mark.parametrize("power", [2.0, 1.5, 1.0])
def test_first_order_is_a_slope(power):
    judgement = oeu_claims.first_order(changes(power))
    assert judgement.verdict == "inconclusive"
    assert judgement.measured.mean == pytest.approx(power, abs=0.02)
    assert "1.00 along the plain forget gradient" in judgement.why


def test_better():
    columns = {("retrain", "FA"): 0.8, ("Q-MUL", "FA"): 0.9, ("OEU", "RA"): 0.99}
    assert oeu_claims.better(made_up(columns, OEU=6.0)).verdict == "supported"
    assert oeu_claims.better(made_up(OEU=6.0)).verdict == "no effect"
    assert oeu_claims.better(made_up(columns, OEU=13.0)).verdict == "contradicted"


def test_slope_of_a_power_and_of_rounding():
    sizes = [10.0**e for e in range(-6, 0)]
    assert slope(sizes, [3 * s**2 for s in sizes]) == pytest.approx(2)
    assert slope(sizes, [-(s**1.5) for s in sizes]) == pytest.approx(1.5)
    assert np.isnan(slope(sizes, [1e-16] * 6))


def test_tuning_takes_the_smallest_mean_and_no_value_that_diverged():
    rows = [
        ("a", 0.1, 3.0), ("a", 0.1, 5.0), ("a", 0.2, 4.0), ("a", 0.2, 4.0), ("a", 0.3, 1.0), ("a", 0.3, None),
        ("b", 0.1, None), ("b", 0.1, None),
    ]  # fmt: skip
    tuning = pd.DataFrame(
        [{"precision": "float", "method": m, "value": v, "gap": g, "seed": i % 2} for i, (m, v, g) in enumerate(rows)]
    )
    assert experiment.chosen(tuning) == {("float", "a"): 0.1}


def test_gate_stops_where_nothing_was_memorised():
    results = made_up({("original", "FA"): 0.99})
    table = experiment.gate(results.rows)
    assert table["FA in excess, points"].between(18, 20).all()
    with pytest.raises(experiment.NotMemorised, match=r"float, random 10 %, .* exceeds Retrain's by \d\.\d points"):
        experiment.gate(made_up({("original", "FA"): 0.82}).rows)


def test_every_claim_has_a_judgement():
    from palimpsest import ledger

    judged = {j for m in (qmul_claims, oeu_claims) for j in _ids(m)}
    assert judged == {claim.id for claim in ledger.claims().values() if claim.paper in ("Q-MUL", "OEU")}


def _ids(module):
    if module is qmul_claims:
        return module.judgements(made_up(), geometry())
    pairs = pd.DataFrame(
        [{"seed": s, "cosine": -0.1, "retain_alone": -1.0, "retain_change": -0.5 - 0.01 * s} for s in SEEDS]
    )
    return module.judgements(made_up(), pairs, changes(2.0))
