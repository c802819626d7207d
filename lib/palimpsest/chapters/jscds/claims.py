"""The six JSCDS claims, judged: each function measures the quantities that `data/claims/jscds.yaml` names."""

import pandas as pd

from palimpsest.chapters.jscds.cohort import BASELINES, CLEAN, COMPLETE, NOISY, RESNET, Setting, dataset
from palimpsest.chapters.jscds.experiment import Results
from palimpsest.chapters.shared.judging import against, ahead, show, strongest
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import Estimate, counted, estimate, paired

FIRST = (CLEAN.name, "epochs")
"""The condition and matching of the paper's claims."""


def described(setting: Setting) -> str:
    """The setting that the claims are judged in, in words."""
    return (
        f"{setting.samples} images of {dataset(setting.dataset).name}, {RESNET} trained from scratch for "
        f"{setting.epochs} epochs; step size {', '.join(f'{lr:g}' for lr in setting.lr_grid)}, tuned on "
        f"another seed; {len(setting.seeds)} seeds"
    )


def against_full(results: Results, fraction: float = 0.5) -> dict[tuple[str, str], Estimate]:
    """JSCDS minus the full set, in points of test accuracy, under every (condition, matching) that was run."""
    arms = results.rows.query("method == 'jscds' and fraction == @fraction")
    arms = arms[arms.architecture == RESNET]
    return {
        (condition, matched): paired(
            results.accuracies("jscds", fraction, condition, matched),
            results.accuracies("full", 1.0, condition),
        )
        for condition, matched in arms.groupby(["condition", "matched"], sort=False).groups
    }


def against_methods(results: Results, condition: str, others=BASELINES) -> dict[str, Estimate]:
    """JSCDS minus each other method at 50 % kept, in points of test accuracy."""
    ours = results.accuracies("jscds", 0.5, condition)
    return {other: paired(ours, results.accuracies(other, 0.5, condition)) for other in others}


def half(results: Results) -> Judgement:
    differences = against_full(results)
    primary = differences.pop(FIRST)
    elsewhere = sorted(f"{condition}, {matched}-matched" for condition, matched in ahead(differences))
    where = f"it wins under {', '.join(elsewhere)}" if elsewhere else "it wins under no other condition"
    why = (
        f"On clean labels half the data, chosen by JSCDS, differs from all of it by {show(primary, digits=2)}; "
        f"of {len(differences)} further comparisons (label noise, equal numbers of updates) {where}."
    )
    return judge("jscds-half", primary, why)


def seventy(results: Results) -> Judgement:
    advantage = against_full(results, 0.7)[FIRST]
    growth = paired(results.accuracies("jscds", 0.7), results.accuracies("jscds", 0.5))
    why = (
        f"From 50 % to 70 % accuracy changes by {show(growth, digits=2)}, and at 70 % it differs from the full set "
        f"by {show(advantage, digits=2)}. An advantage that grows must first be one."
    )
    return judge("jscds-seventy", advantage, why, also={"growth": growth})


def best(results: Results) -> Judgement:
    differences = against_methods(results, CLEAN.name)
    why = against("JSCDS", differences)
    return judge("jscds-best", differences[strongest(differences)], why, family=differences)


def fast(costs: pd.DataFrame) -> Judgement:
    totals = costs.set_index("method").total
    ours, full = costs.set_index("method").loc["jscds"], totals["full"]
    rivals = totals.drop(["jscds", "full", "random"])
    cheaper = sorted(rivals.index[rivals < ours.total])
    same = costs[(costs.signals == ours.signals) & (costs.method != "jscds")]
    scoring_least = bool((same.scoring >= ours.scoring).all())
    ratio = ours.total / full
    why = (
        f"Counted in multiply-adds, scorer, scoring and final training together cost {ratio:.2f} times one "
        f"training on all the data. {len(cheaper)} of {len(rivals)} methods that look at the data cost less in "
        f"all{' (' + ', '.join(cheaper) + ')' if cheaper else ''}; among those that read the same trained network "
        f"its scoring is {'the' if scoring_least else 'not the'} cheapest, but scoring is "
        f"{100 * ours.scoring / ours.total:.1g} % of the total."
    )
    return judge("jscds-fast", counted(ratio), why)


def nonlinear(results: Results) -> Judgement:
    difference = against_methods(results, CLEAN.name, ("L2 near-mean",))["L2 near-mean"]
    noisy = against_methods(results, NOISY.name, ("L2 near-mean",))["L2 near-mean"]
    clean = results.geometry.query("condition == @CLEAN.name")
    l2, restart = clean["overlap.L2 near-mean"], clean["overlap.another start of the scorer"]
    why = (
        f"Under one rule, JSD and L2 rank samples alike (Spearman {clean['rank correlation.l2'].mean():.2f}) and "
        f"keep {100 * l2.mean():.0f} % of the same samples, while JSD on a scorer from another start keeps "
        f"{100 * restart.mean():.0f} %. The accuracies differ by {show(difference, digits=2)} on clean labels and "
        f"{show(noisy, digits=2)} with 20 % wrong."
    )
    return judge("jscds-nonlinear", difference, why)


def text_vs_code(results: Results) -> Judgement:
    differences = {c: against_methods(results, c, ("successor code",))["successor code"] for c in COMPLETE}
    shared = estimate(100 * results.geometry.query("condition == @CLEAN.name")["overlap.successor code"])
    noisy = differences[NOISY.name]
    wrong = results.rows.query("condition == @NOISY.name and fraction == 0.5")
    wrong = wrong[wrong.architecture == RESNET]
    share = 100 * wrong.groupby("method").wrong_kept.mean()
    why = (
        f"The two rules share {shared.mean:.0f} % of their choices (two random halves share 50 %). Text minus "
        f"code is {show(differences[CLEAN.name], digits=2)} on clean labels and {show(noisy, digits=2)} with 20 % "
        f"wrong, where the text's rule keeps {share['jscds']:.0f} % wrong labels and the code's "
        f"{share['successor code']:.0f} %."
    )
    return judge("jscds-text-vs-code", noisy, why, also={"shared": shared})


def judgements(results: Results, costs: pd.DataFrame) -> dict[str, Judgement]:
    """All six, by identifier."""
    return settle([*(f(results) for f in (half, seventy, best, nonlinear, text_vs_code)), fast(costs)])
