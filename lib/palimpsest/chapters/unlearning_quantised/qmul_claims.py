"""The five claims of Q-MUL, judged: each function measures the quantities that `data/claims/qmul.yaml` names."""

import numpy as np
import pandas as pd

from palimpsest.chapters.shared.judging import against, level, show, strongest
from palimpsest.chapters.unlearning_quantised.arms import (
    BASELINES,
    CONSTANTS,
    ELSEWHERE,
    HEADLINE,
    PLACEBO,
    SWEEP,
)
from palimpsest.chapters.unlearning_quantised.experiment import Results, best_of
from palimpsest.chapters.unlearning_quantised.judging import advantage, difference, steadied, within
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import estimate


def by_seed(noise: pd.DataFrame, column: str, precision: str, loss: str) -> pd.Series:
    """One column of the probe `probes.noise` by seed."""
    rows = noise.query("precision == @precision and loss == @loss")
    return rows.set_index("seed")[column].sort_index()


def noisy(measured: pd.DataFrame) -> Judgement:
    values = {p: by_seed(measured, "label_noise", p, "random labels") for p in SWEEP}
    amplified = estimate(np.log(values["W4A4"] / values["float"]))
    along = ", ".join(f"{p} {v.mean():.3f}" for p, v in values.items())
    batches = ", ".join(f"{p} {by_seed(measured, 'noise', p, 'random labels').mean():.2f}" for p in SWEEP)
    why = (
        "Variance of the forget gradient over draws of the labels, relative to the square of its mean, by precision: "
        f"{along}. With batches drawn too: {batches}."
    )
    return judge("qmul-noise", amplified, why)


def similar(results: Results, measured: pd.DataFrame) -> Judgement:
    both = ("random labels", "similar labels")
    noises = [by_seed(measured, "noise", HEADLINE[0], loss) for loss in both]
    norms = [by_seed(measured, "G_f", HEADLINE[0], loss).mean() for loss in both]
    cosines = [by_seed(measured, "cosine", HEADLINE[0], loss).mean() for loss in both]
    why = (
        f"Relative variance of a batch's forget gradient: {noises[0].mean():.2f} with random and "
        f"{noises[1].mean():.2f} with similar labels. G_f is {norms[0]:.0f} and {norms[1]:.0f}, cos(g_f, g_r) "
        f"{cosines[0]:+.2f} and {cosines[1]:+.2f}. The gap of similar labels minus that of random ones is "
        f"{show(difference(results, 'gap', 'similar labels', 'random label'))}. From the original FA falls by "
        f"{show(difference(results, 'FA', 'original', 'similar labels'))} with similar and "
        f"{show(difference(results, 'FA', 'original', 'random label'))} with random labels, for Retrain by "
        f"{show(difference(results, 'FA', 'original', 'retrain'))}."
    )
    return judge("qmul-similar", estimate(np.log(noises[1] / noises[0])), why)


def drifts(pairs: pd.DataFrame) -> pd.Series:
    """ln (w_f G_f / w_r G_r) at the end of the epochs, in evaluation mode, mean over them; by seed."""
    return pairs.dropna(subset="balance").groupby("seed").balance.mean()


def agr(results: Results, pairs: pd.DataFrame) -> Judgement:
    """`pairs` is the table of `probes.conflict`."""
    constant = best_of(results, tuple(CONSTANTS))
    gaps = {name: results.column("gap", name) for name in ("Q-MUL", "similar labels", "random label", "RL + AGR")}
    balance = estimate(drifts(pairs))
    chosen = ", ".join(f"{name} {n}" for name, n in constant.method.value_counts().items())
    weight = results.logged("Q-MUL").weight_f.dropna()
    why = (
        f"Tuning took as the best constant, in so many replications: {chosen}. At the end of an epoch w_f G_f is "
        f"{np.exp(balance.mean):.2f} times w_r G_r [{np.exp(balance.low):.2f}, {np.exp(balance.high):.2f}] (1 at "
        "its start "
        f"by construction); w_f is {weight.mean():.2f} on average. Against two weights of one AGR gains "
        f"{show(within(gaps['similar labels'], gaps['Q-MUL']))} with similar and "
        f"{show(within(gaps['random label'], gaps['RL + AGR']))} with random labels."
    )
    return judge("qmul-agr", within(constant.gap, gaps["Q-MUL"]), why, also={"balance": balance})


def best(results: Results) -> Judgement:
    differences = advantage(results, "Q-MUL", BASELINES)
    elsewhere = []
    for forget_set in results.rows.query("precision == @HEADLINE[0]").forget_set.unique():
        if forget_set != HEADLINE[1]:
            found = advantage(results, "Q-MUL", ELSEWHERE[:-2], (HEADLINE[0], forget_set))
            elsewhere.append(f"{forget_set} {show(found[rival := strongest(found)])} against {rival}")
    why = (
        f"{against('Q-MUL', differences)} Q-MUL's gap is "
        f"{level(estimate(results.column('gap', 'Q-MUL').dropna()), 'points')}, "
        f"that of doing nothing {results.column('gap', 'original').mean():.1f}, and another retraining's "
        f"{results.column('gap', 'retrain again').mean():.1f}. One method under two names differs by "
        f"{show(difference(results, 'gap', *PLACEBO))}. On other forget sets the strongest rival's gap minus "
        "Q-MUL's is: "
        f"{'; '.join(elsewhere)}."
    )
    return judge("qmul-best", differences[strongest(differences)], why, family=differences)


def quant_specific(results: Results) -> Judgement:
    gains = {
        p: (results.column("gap", "random label", p) - results.column("gap", "Q-MUL", p)).dropna()
        for p in ("float", HEADLINE[0])
    }
    along = ", ".join(f"{p} {show(estimate(gain))}" for p, gain in gains.items())
    alone = estimate(gains[HEADLINE[0]])
    here = "is a gain" if alone.low > 0 else "is a loss" if alone.high < 0 else "cannot be told from none"
    why = (
        f"Q-MUL's gain over random label, each tuned at its precision: {along}. By itself that at {HEADLINE[0]} "
        f"{here}."
    )
    return judge("qmul-quant-specific", within(gains[HEADLINE[0]], gains["float"]), why)


def judgements(results: Results, measured: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Judgement]:
    """All five, by identifier; `measured` and `pairs` are the tables of `probes.noise`, over the precisions of
    `SWEEP`, and `probes.conflict`."""
    return settle(
        [
            noisy(measured),
            similar(results, measured),
            steadied(results, lambda found: agr(found, pairs)),
            steadied(results, best),
            steadied(results, quant_specific),
        ]
    )
