"""The five claims of OEU, judged: each function measures the quantities that `data/claims/oeu.yaml` names."""

import numpy as np
import pandas as pd

from palimpsest.chapters.shared.judging import against, level, names, show, strongest
from palimpsest.chapters.unlearning_quantised.arms import BASELINES, FIXED, LABEL_METHODS
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.chapters.unlearning_quantised.judging import advantage, difference, steadied, within
from palimpsest.chapters.unlearning_quantised.probes import slope
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import Estimate, estimate

LINEAR = (1e-6, 1e-3)
"""Step sizes between which the slope is taken: above the rounding of float64, below the curvature."""

RIVALS = (*BASELINES, "Q-MUL")


def excess(labels: pd.DataFrame) -> dict[str, Estimate]:
    """By method of the table of `probes.injected_labels`: how many more forget samples than of Retrain's get the
    injected label, in points."""
    found = {}
    for method, rows in labels.groupby("method", sort=False):
        own = rows.set_index("seed")
        found[method] = estimate(100 * (own.agreement - own.of_retrain))
    return found


def misremember(labels: pd.DataFrame) -> Judgement:
    found = excess(labels)
    methods = {name: found[name] for name in FIXED}
    controls = ", ".join(f"{name} {show(e)}" for name, e in found.items() if name not in FIXED)
    each = ", ".join(f"{name} {show(e)}" for name, e in methods.items())
    retrain = 100 * labels.groupby("method", sort=False).of_retrain.mean()
    why = (
        f"More forget samples than under Retrain are given the label that was injected: {each}. Retrain itself gives "
        f"it to {retrain['random label']:.1f} % where labels were random and to {retrain['Q-MUL']:.1f} % where they "
        f"were similar ones. Controls that saw no wrong label, asked for the random ones: {controls}."
    )
    return judge("oeu-misremember", methods[strongest(methods)], why, family=methods)


def course(results: Results, method: str) -> pd.Series:
    """Correlation, over the forget samples of a seed, of the change of the margin by `method` with that by Retrain,
    both from the original; by seed."""
    start, target = (results.column("margins", name) for name in ("original", "retrain"))
    own = results.column("margins", method).dropna()
    found = {
        seed: float(np.corrcoef(np.subtract(own[seed], start[seed]), np.subtract(target[seed], start[seed]))[0, 1])
        for seed in own.index
    }
    return pd.Series(found)


def unbiased(results: Results) -> Judgement:
    oeu = course(results, "OEU")
    ahead = {method: within(oeu, course(results, method)) for method in LABEL_METHODS}
    shown = ("retrain again", "OEU", "KL(u, p)", "fine-tune", *LABEL_METHODS)
    levels = ", ".join(f"{method} {course(results, method).mean():.2f}" for method in shown)
    entropies = ", ".join(
        f"{method} {results.column('entropy', method).mean():.2f}" for method in ("original", "retrain", "OEU")
    )
    why = (
        f"Correlation of a sample's change of margin with its change under Retrain: {levels}. The first is what "
        "another "
        f"retraining reaches. Mean entropy on the forget set, in nats, for comparison: {entropies}."
    )
    return judge("oeu-unbiased", ahead[strongest(ahead)], why, family=ahead)


def conflict(pairs: pd.DataFrame) -> Judgement:
    """`pairs` is the table of `probes.conflict`."""
    pairs = pairs.dropna(subset="cosine")
    opposed = pairs.assign(opposed=100.0 * (pairs.cosine < 0), null=100.0 * (pairs.null < 0)).groupby("seed")
    share, null = opposed.opposed.mean(), opposed.null.mean()
    sums = pairs.groupby("seed")[["by_forget", "by_retain"]].sum()
    cost = estimate(-100 * sums.by_forget / sums.by_retain)
    why = (
        f"Of the pairs of a forget and a retain batch {level(estimate(share))} have opposed gradients, of pairs of "
        "two "
        f"retain batches {level(estimate(null))}. Over all pairs, opposed or not, Q-MUL's weighted forget gradient "
        "takes "
        f"back {level(cost)} of the first-order descent of the retain loss."
    )
    return judge("oeu-conflict", within(share, null), why, also={"cost": cost})


def slopes(changes: pd.DataFrame, precision: str, direction: str, batch: str = "same") -> pd.Series:
    """The slope of each seed over the step sizes of `LINEAR`; NaN where rounding hides the change."""
    rows = changes.query("precision == @precision and direction == @direction and batch == @batch")
    rows = rows[rows.step.between(0.99 * LINEAR[0], 1.01 * LINEAR[1])]
    return pd.Series({seed: slope(r.step.tolist(), r.change.tolist()) for seed, r in rows.groupby("seed")})


def at_equal_entropy(courses: pd.DataFrame) -> pd.DataFrame:
    """The loss on the whole retain set, by seed and method, where the mean entropy on the forget set first reaches
    what the method that ends lower reaches at its highest; linear between looks. `courses`: `probes.along`."""
    table = {}
    for seed, rows in courses.groupby("seed"):
        runs = {method: r.sort_values("look") for method, r in rows.groupby("method")}
        reached = min(r.entropy.max() for r in runs.values())
        table[seed] = {
            method: _first(r.entropy.to_numpy(), r.retain_loss.to_numpy(), reached) for method, r in runs.items()
        }
    return pd.DataFrame(table).T


def _first(entropy: np.ndarray, loss: np.ndarray, reached: float) -> float:
    i = int(np.argmax(entropy >= reached))
    if i == 0:
        return float(loss[0])
    share = (reached - entropy[i - 1]) / (entropy[i] - entropy[i - 1])
    return float(loss[i - 1] + share * (loss[i] - loss[i - 1]))


def first_order(courses: pd.DataFrame, left: pd.DataFrame, changes: pd.DataFrame) -> Judgement:
    """`courses`, `left` and `changes` are the tables of `probes.along`, `.coefficients` and `.first_order`."""
    losses = at_equal_entropy(courses)
    saved = estimate(np.log(losses["OEU"] / losses["entropy only"]))
    own = left[left.precision == "W4A4"].set_index("seed")
    remains = estimate(own.projected / own.plain)
    same, plain = (slopes(changes, "float", direction).mean() for direction in ("g_f orthogonal", "g_f"))
    why = (
        f"At equal entropy on the forget set the loss on the whole retain set is {losses['OEU'].mean():.3f} nats "
        "with and "
        f"{losses['entropy only'].mean():.3f} without projection. On a batch that the projection did not use, "
        f"{remains.mean:.2f} of the first-order change is left. On the batch that it used the change is of second "
        "order "
        f"by construction: in float64 its slope against the step size is {same:.2f}, without projection {plain:.2f}."
    )
    return judge("oeu-first-order", saved, why, also={"other": remains})


def better(results: Results) -> Judgement:
    differences = advantage(results, "OEU", RIVALS)
    rival = strongest(differences)
    higher = {other: difference(results, "RA", "OEU", other) for other in RIVALS}
    floor = estimate(results.column("gap", "retrain again"))
    work = ", ".join(f"{name} {results.column('rte', name).mean():.2f}" for name in ("OEU", "Q-MUL", "random label"))
    ahead = {name for name, e in higher.items() if e.low > 0}
    why = (
        f"{against('OEU', differences)} OEU's gap is "
        f"{level(estimate(results.column('gap', 'OEU').dropna()), 'points')}, "
        f"that of doing nothing {results.column('gap', 'original').mean():.1f}, and another retraining's "
        f"{level(floor, 'points')}. Its RA is above that of {names(ahead)}, against {rival} by "
        f"{show(higher[rival])}. "
        f"Work as a share of retraining: {work}."
    )
    return judge("oeu-better", differences[rival], why, family=differences, also={"RA": higher[strongest(higher)]})


def judgements(
    results: Results,
    labels: pd.DataFrame,
    pairs: pd.DataFrame,
    courses: pd.DataFrame,
    left: pd.DataFrame,
    changes: pd.DataFrame,
) -> dict[str, Judgement]:
    """All five, by identifier. Those that depend on which value a method was tuned to, and can be had at others, are
    `steadied`."""
    return settle(
        [
            misremember(labels),
            steadied(results, unbiased),
            conflict(pairs),
            first_order(courses, left, changes),
            steadied(results, better),
        ]
    )
