"""The five claims of Q-MUL, judged: each function measures the quantities that `data/claims/qmul.yaml` names."""

import numpy as np
import pandas as pd

from palimpsest.chapters.shared.judging import against, show, strongest
from palimpsest.chapters.unlearning_quantised.arms import BASELINES, CONSTANTS, HEADLINE, SWEEP
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.chapters.unlearning_quantised.judging import advantage, difference
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import estimate, paired


def by_seed(geometry: pd.DataFrame, column: str, precision: str, loss: str) -> pd.Series:
    """One column of the probe `probes.geometry` by seed."""
    rows = geometry.query("precision == @precision and loss == @loss")
    return rows.set_index("seed")[column].sort_index()


def ratio(geometry: pd.DataFrame, precision: str, loss: str) -> pd.Series:
    """G_f / G_r at the original, by seed."""
    return by_seed(geometry, "G_f", precision, loss) / by_seed(geometry, "G_r", precision, loss)


def noise(results: Results, geometry: pd.DataFrame) -> Judgement:
    gaps = {p: results.column("gap", "random label", p) for p in SWEEP}
    primary = paired(gaps["W4A4"], gaps["float"])
    norms = paired(ratio(geometry, "W4A4", "random labels"), ratio(geometry, "float", "random labels"))
    along = ", ".join(f"{p} {gaps[p].mean():.1f}" for p in SWEEP)
    ratios = ", ".join(f"{p} {ratio(geometry, p, 'random labels').mean():.1f}" for p in SWEEP)
    why = (
        f"The gap of random label is, in points: {along}. The forget gradient is larger than the retain gradient by "
        f"the factors {ratios}; W4A4 minus float is {show(norms, 'in G_f / G_r')}. A memorised retain set makes G_r "
        "small in float, so the ratio says as much about how well a network fits as about noise."
    )
    return judge("qmul-noise", primary, why)


def similar(results: Results, geometry: pd.DataFrame) -> Judgement:
    primary = difference(results, "gap", "random label", "similar labels")
    both = ("random labels", "similar labels")
    norms = [by_seed(geometry, "G_f", "W4A4", name) for name in both]
    cosines = [by_seed(geometry, "cosine", "W4A4", name).mean() for name in both]
    forgets = difference(results, "FA", "original", "similar labels")
    why = (
        f"Similar labels change G_f from {norms[0].mean():.0f} to {norms[1].mean():.0f} "
        f"and cos(g_f, g_r) from {cosines[0]:+.2f} to {cosines[1]:+.2f}. From the original FA falls by "
        f"{show(forgets)} with similar and {show(difference(results, 'FA', 'original', 'random label'))} with random "
        f"labels; Retrain's FA is {results.column('FA', 'retrain').mean():.1f} %."
    )
    return judge("qmul-similar", primary, why)


def balance(results: Results, method: str = "Q-MUL") -> pd.Series:
    """Mean w_f G_f over mean w_r G_r of the steps of an epoch, averaged over the epochs, by seed position."""
    log = results.logged(method)
    sums = {}
    for side in ("forget", "retain"):
        rows = log[log[f"weighted_{side}"].notna()]
        values = pd.DataFrame(rows[f"weighted_{side}"].tolist(), index=rows.epoch)
        sums[side] = values.groupby(level=0).mean()
    return (sums["forget"] / sums["retain"]).mean()


def agr(results: Results) -> Judgement:
    tuned = results.tuning[results.tuning.precision == HEADLINE[0]].groupby(["method", "value"]).gap.mean()
    constant = min(CONSTANTS, key=lambda name: tuned[name].min())
    primary = difference(results, "gap", constant, "Q-MUL")
    during = balance(results)
    plain = difference(results, "gap", "similar labels", "Q-MUL")
    random = difference(results, "gap", "random label", "RL + AGR")
    weight = np.mean(results.logged("Q-MUL").weight_f.dropna().tolist())
    why = (
        f"During the epochs w_f G_f is {during.min():.2f} to {during.max():.2f} times w_r G_r over the seeds (1 at "
        f"the start of each by construction). The retain gradient of a memorised set is small, and so is its share: "
        f"w_f is {weight:.2f} on average, and most of an epoch repairs. The best constant is '{constant}'. Against "
        f"equal weights AGR gains {show(plain)} with similar and {show(random)} with random labels."
    )
    return judge("qmul-agr", primary, why)


def best(results: Results) -> Judgement:
    differences = advantage(results, "Q-MUL", BASELINES)
    why = (
        f"{against('Q-MUL', differences)} Q-MUL's gap is {results.column('gap', 'Q-MUL').mean():.1f} points, that "
        f"of doing nothing {results.column('gap', 'original').mean():.1f}."
    )
    return judge("qmul-best", differences[strongest(differences)], why, family=differences)


def quant_specific(results: Results) -> Judgement:
    gains = {p: results.column("gap", "random label", p) - results.column("gap", "Q-MUL", p) for p in SWEEP}
    primary = paired(gains["W4A4"], gains["float"])
    along = ", ".join(f"{p} {show(estimate(gain))}" for p, gain in gains.items())
    why = f"Q-MUL's gain over random label: {along}."
    return judge("qmul-quant-specific", primary, why)


def judgements(results: Results, geometry: pd.DataFrame) -> dict[str, Judgement]:
    """All five, by identifier; `geometry` is the probe's table over the precisions of `SWEEP`."""
    first = [noise(results, geometry), similar(results, geometry), agr(results), best(results)]
    return settle([*first, quant_specific(results)])
