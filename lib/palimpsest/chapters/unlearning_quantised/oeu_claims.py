"""The five claims of OEU, judged: each function measures the quantities that `data/claims/oeu.yaml` names."""

import pandas as pd

from palimpsest.chapters.shared.judging import against, ahead, names, show, strongest
from palimpsest.chapters.unlearning_quantised.arms import BASELINES, LABEL_METHODS
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.chapters.unlearning_quantised.judging import advantage, difference, to_retrain
from palimpsest.chapters.unlearning_quantised.probes import slope
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import Estimate, estimate, paired

LINEAR = (1e-6, 1e-3)
"""Step sizes between which the slope is taken: above the rounding of float64, below the curvature."""


def misremember(results: Results) -> Judgement:
    excess: dict[str, Estimate] = {}
    for method in LABEL_METHODS:
        for column in ("wrong_confidence", "concentration"):
            pair = pd.concat([results.column(column, name) for name in (method, "retrain")], axis=1).dropna()
            if len(pair) >= 2:  # a method that leaves no wrong prediction has none to look at
                excess[f"{method}, {column.replace('_', ' ')}"] = paired(pair.iloc[:, 0], pair.iloc[:, 1])
    confidence = [results.column("wrong_confidence", method) for method in LABEL_METHODS]
    mean = pd.concat(confidence, axis=1).mean(axis=1)
    primary = paired(mean, results.column("wrong_confidence", "retrain"))
    found = ahead(excess)
    entropy_only = difference(results, "wrong_confidence", "OEU", "retrain")
    why = (
        f"Beyond Retrain, after Holm's correction, are: {names(found)}. Retrain itself is wrong with a confidence of "
        f"{results.column('wrong_confidence', 'retrain').mean():.0f} %: a network that never saw a garment errs "
        f"surely. OEU's wrong predictions differ from Retrain's by {show(entropy_only)}."
    )
    return judge("oeu-misremember", primary, why)


def unbiased(results: Results) -> Judgement:
    nearer = {}
    for other in LABEL_METHODS:
        nearer[f"{other}, entropy"] = paired(
            to_retrain(results, "entropy", other), to_retrain(results, "entropy", "OEU")
        )
        nearer[f"{other}, classes"] = difference(results, "chi2", other, "OEU")
    won = ahead(nearer)
    best = min(LABEL_METHODS, key=lambda m: to_retrain(results, "entropy", m).mean())
    primary = paired(to_retrain(results, "entropy", "OEU"), to_retrain(results, "entropy", best))
    levels = ", ".join(
        f"{name} {results.column('entropy', name).mean():.2f}"
        for name in ("original", "retrain", "OEU", *LABEL_METHODS)
    )
    distances = ", ".join(
        f"{name} {results.column('chi2', name).mean():.3f}" for name in ("original", "OEU", *LABEL_METHODS)
    )
    why = (
        f"Mean entropy on the forget set, in nats: {levels}. χ² distance of the predicted classes from Retrain's: "
        f"{distances}. OEU is significantly nearer in {names(won)}. The nearest label method in entropy is {best}."
    )
    return judge("oeu-unbiased", primary, why)


def conflict(pairs: pd.DataFrame) -> Judgement:
    """`pairs` is the table of `probes.conflict`."""
    opposed = pairs.assign(opposed=100.0 * (pairs.cosine < 0))
    share = estimate(opposed.groupby("seed").opposed.mean())
    inside = pairs[pairs.cosine < 0]
    taken = (1 - inside.retain_change / inside.retain_alone).groupby(inside.seed).mean()
    cost = estimate(100 * taken) if len(taken) >= 2 else None
    ascending = 100 * (pairs.retain_change > 0).mean()
    lost = f"{show(cost, '%')} of the retain loss's first-order descent" if cost else "nothing"
    why = (
        f"Weights change lengths, not angles: of the pairs with opposed gradients Q-MUL's weights leave every one "
        f"opposed. There the weighted forget gradient takes back {lost}, and in {ascending:.0f} % of all pairs the "
        "weighted step raises the retain loss."
    )
    return judge("oeu-conflict", share, why)


def slopes(changes: pd.DataFrame, precision: str, direction: str, batch: str = "same") -> pd.Series:
    """The slope of each seed over the step sizes of `LINEAR`; NaN where rounding hides the change."""
    rows = changes.query("precision == @precision and direction == @direction and batch == @batch")
    rows = rows[rows.step.between(0.99 * LINEAR[0], 1.01 * LINEAR[1])]
    return pd.Series({seed: slope(r.step.tolist(), r.change.tolist()) for seed, r in rows.groupby("seed")})


def first_order(changes: pd.DataFrame) -> Judgement:
    """`changes` is the table of `probes.first_order` in float and at W4A4."""
    primary, plain = estimate(slopes(changes, "float", "g_f orthogonal")), estimate(slopes(changes, "float", "g_f"))
    smallest = changes.query("precision == 'W4A4' and batch == 'same' and direction == 'g_f orthogonal'")
    smallest = smallest[smallest.step.between(0.99e-4, 1.01e-4)].change.abs().mean()
    floats = changes.query("precision == 'float' and batch == 'same' and direction == 'g_f orthogonal'")
    floats = floats[floats.step.between(0.99e-4, 1.01e-4)].change.abs().mean()
    other = slopes(changes, "float", "g_f orthogonal", "other").mean()
    momentum = slopes(changes, "float", "momentum").mean()
    rounded = slopes(changes, "W4A4", "g_f orthogonal").mean()
    why = (
        f"In float the slope is {primary.mean:.2f} along the projected and {plain.mean:.2f} along the plain forget "
        f"gradient. On another retain batch it is {other:.2f}, along gathered momentum {momentum:.2f}: the guarantee "
        f"holds for one batch and one plain step. At W4A4 weights cross rounding thresholds: a step of 1e-4 changes "
        f"the loss by {smallest:.1e} instead of {floats:.1e} nats, and a slope ({rounded:.2f}) means little."
    )
    return judge("oeu-first-order", primary, why, also={"plain": plain})


def better(results: Results) -> Judgement:
    others = (*BASELINES, "Q-MUL")
    differences = advantage(results, "OEU", others)
    nearer = paired(to_retrain(results, "FA", "Q-MUL"), to_retrain(results, "FA", "OEU"))
    higher = difference(results, "RA", "OEU", "Q-MUL")
    work = {name: results.column("rte", name).mean() for name in ("OEU", "Q-MUL", "random label")}
    why = (
        f"{against('OEU', differences)} Against Q-MUL its FA is nearer to Retrain's by {show(nearer)} and its RA "
        f"differs by {show(higher)}. Work, as a share of retraining: OEU {work['OEU']:.2f}, Q-MUL "
        f"{work['Q-MUL']:.2f}, random label {work['random label']:.2f}."
    )
    also = {"nearer": nearer, "RA": higher}
    return judge("oeu-better", differences[strongest(differences)], why, family=differences, also=also)


def judgements(results: Results, pairs: pd.DataFrame, changes: pd.DataFrame) -> dict[str, Judgement]:
    """All five, by identifier."""
    return settle([misremember(results), unbiased(results), conflict(pairs), first_order(changes), better(results)])
