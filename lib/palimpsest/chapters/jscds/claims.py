"""The six JSCDS claims, judged: each function measures the quantities that `data/claims/jscds.yaml` names."""

from dataclasses import replace

import pandas as pd

from palimpsest.chapters.jscds.cohort import CLEAN, METHODS, NOISY, RIVALS, Setting, dataset
from palimpsest.chapters.jscds.cost import READ_ONE
from palimpsest.chapters.jscds.experiment import Results
from palimpsest.chapters.shared.judging import against, ahead, behind, names, show, strongest
from palimpsest.ledger import Judgement, judge, settle
from palimpsest.metrics.statistics import Estimate, counted, estimate, paired

FIRST, UPDATES = (CLEAN.name, "epochs"), (CLEAN.name, "updates")
"""The condition and the matchings of the paper's claims."""

CODE, TRAINED_CODE = "successor code", "farthest, trained head"


def described(setting: Setting) -> str:
    """The setting that the claims are judged in, in words."""
    grid = ", ".join(f"{lr:g}" for lr in setting.lr_grid)
    return (
        f"{setting.samples} images of {dataset(setting.dataset).name}, {setting.architecture} trained from scratch "
        f"for {setting.epochs} epochs; every arm at step sizes {grid}, each replication tuned on the others' "
        f"validation images; {len(setting.seeds)} seeds"
    )


def against_full(results: Results, fraction: float = 0.5) -> dict[tuple[str, str], Estimate]:
    """JSCDS minus the full set, in points of test accuracy, under every (condition, matching) that was run."""
    arms = results.rows.query("method == 'jscds' and fraction == @fraction")
    return {
        (condition, matched): paired(
            results.accuracies("jscds", fraction, condition, matched),
            results.accuracies("full", 1.0, condition),
        )
        for condition, matched in arms.groupby(["condition", "matched"], sort=False).groups
    }


def against_methods(results: Results, condition: str, others=None, who: str = "jscds") -> dict[str, Estimate]:
    """`who` minus each other method at 50 % kept, in points of test accuracy; without `others` all that were run."""
    rows = results.rows.query("condition == @condition and fraction == 0.5 and matched == 'epochs'")
    ran = [name for name in METHODS if name in set(rows.method) and name != who]
    ours = results.accuracies(who, 0.5, condition)
    return {name: paired(ours, results.accuracies(name, 0.5, condition)) for name in (others or ran)}


def floors(results: Results, condition: str) -> dict[str, Estimate]:
    """What is nothing but noise: random selection minus random selection, and the full set minus itself from another
    start, in points of test accuracy."""
    return {
        "random minus random again": paired(
            *(results.accuracies(name, 0.5, condition) for name in ("random", "random again"))
        ),
        "full minus full again": paired(
            *(results.accuracies(name, 1.0, condition) for name in ("full", "full again"))
        ),
    }


def half(results: Results) -> Judgement:
    differences = against_full(results)
    epochs, updates = differences.pop(FIRST), differences.pop(UPDATES)
    elsewhere = {f"{condition}, equal {matched}": e for (condition, matched), e in differences.items()}
    why = (
        f"On clean labels half the data, chosen by JSCDS, differs from all of it by {show(epochs, digits=2)} in "
        f"equal epochs and by {show(updates, digits=2)} in equal updates. With wrong labels it is ahead of the full "
        f"set in {names(ahead(elsewhere))} and behind it in {names(behind(elsewhere))} of {len(elsewhere)} "
        "comparisons (Holm-corrected)."
    )
    return judge("jscds-half", epochs, why, also={"updates": updates})


def seventy(results: Results) -> Judgement:
    advantage = against_full(results, 0.7)[FIRST]
    growth = paired(results.accuracies("jscds", 0.7), results.accuracies("jscds", 0.5))
    by_chance = paired(results.accuracies("random", 0.7), results.accuracies("random", 0.5))
    updates = against_full(results, 0.7)[UPDATES]
    why = (
        f"From 50 % to 70 % accuracy changes by {show(growth, digits=2)} with JSCDS and by "
        f"{show(by_chance, digits=2)} with random selection. At 70 % JSCDS differs from the full set by "
        f"{show(advantage, digits=2)} in equal epochs and by {show(updates, digits=2)} in equal updates. An "
        "advantage that grows must first be one."
    )
    return judge("jscds-seventy", advantage, why, also={"growth": growth})


def best(results: Results) -> Judgement:
    differences = against_methods(results, CLEAN.name, RIVALS)
    ran = set(results.rows.query("condition == @NOISY.name").method)
    noisy = against_methods(results, NOISY.name, [name for name in RIVALS if name in ran])
    why = f"{against('JSCDS', differences)} With 20 % wrong labels: {against('JSCDS', noisy)}"
    return judge("jscds-best", differences[strongest(differences)], why, family=differences)


def fast(results: Results, costs: pd.DataFrame) -> Judgement:
    """`costs` is the table of `cost.count`."""
    table = costs.set_index("method")
    rivals = [name for name in RIVALS if table.scorer[name] > 0]
    scorer = table.scorer.where(~table.index.isin(READ_ONE), table.scorer["early jscds"])
    picking = scorer + table.scoring
    ratios = {name: counted(picking["early jscds"] / picking[name]) for name in rivals}
    nearest = min(ratios, key=lambda name: abs(ratios[name].mean - 1))
    dearer = {name for name in rivals if ratios[name].mean < 0.95}
    alike = {name for name in rivals if 0.95 <= ratios[name].mean <= 1.05}
    changes = {
        name: paired(results.accuracies(name), results.accuracies("jscds")) for name in ("early jscds", "proxy jscds")
    }
    full = table.total["full"]
    why = (
        f"A scorer trained to the end costs {table.scorer['jscds'] / full:.2f}, the early one "
        f"{table.scorer['early jscds'] / full:.2f} and the smaller one {table.scorer['proxy jscds'] / full:.2f} "
        f"trainings on all the data; the arithmetic of JSCDS's choice costs {table.scoring['jscds'] / full:.1e}. "
        f"With the early scorer JSCDS needs less than {names(dearer)} and, within 5 %, as much as {names(alike)} of "
        f"{len(rivals)} methods that need a scorer too, where those that read one network's features or logits have "
        f"the same early one. Early minus trained scorer changes JSCDS's accuracy by "
        f"{show(changes['early jscds'], digits=2)}, the smaller network by {show(changes['proxy jscds'], digits=2)}. "
        f"With the final training JSCDS costs {table.total['jscds'] / full:.2f} trainings on all the data with the "
        f"trained and {table.total['early jscds'] / full:.2f} with the early scorer."
    )
    return judge("jscds-fast", ratios[nearest], why, family=ratios)


def nonlinear(results: Results) -> Judgement:
    (difference,) = against_methods(results, CLEAN.name, ("L2 near-mean",)).values()
    (noisy,) = against_methods(results, NOISY.name, ("L2 near-mean",)).values()
    clean = results.geometry
    l2, restart = clean["overlap.L2 near-mean"], clean["overlap.another start of the scorer"]
    why = (
        f"Under one rule, JSD and L2 rank samples alike (Spearman {clean['rank correlation.l2'].mean():.2f}; with "
        f"⅛ Σ (p − q)²/q, a weighted squared distance, {clean['rank correlation.expansion'].mean():.3f}) and keep "
        f"{100 * l2.mean():.0f} % of the same samples, while JSD on a scorer from another start keeps "
        f"{100 * restart.mean():.0f} %. The accuracies differ by {show(difference, digits=2)} on clean labels and "
        f"{show(noisy, digits=2)} with 20 % wrong."
    )
    return judge("jscds-nonlinear", difference, why)


def text_vs_code(results: Results) -> Judgement:
    rule = {c: against_methods(results, c, (TRAINED_CODE,))[TRAINED_CODE] for c in (CLEAN.name, NOISY.name)}
    head = {c: against_methods(results, c, (CODE,), who=TRAINED_CODE)[CODE] for c in (CLEAN.name, NOISY.name)}
    shared = estimate(100 * results.geometry[f"overlap.{TRAINED_CODE}"])
    rows = results.rows.query("condition == @NOISY.name and fraction == 0.5")
    share = 100 * rows.groupby("method").wrong_kept.mean()
    why = (
        f"With one trained head for both, the two rules share {shared.mean:.0f} % of their choices (two random "
        f"halves share 50 %). Text minus code is {show(rule[CLEAN.name], digits=2)} on clean labels and "
        f"{show(rule[NOISY.name], digits=2)} with 20 % wrong, where the text's rule keeps {share['jscds']:.0f} % "
        f"wrong labels and the code's {share[TRAINED_CODE]:.0f} %. The untrained head is counted apart: the code's "
        f"rule with a trained head minus that with an untrained one is {show(head[CLEAN.name], digits=2)} and "
        f"{show(head[NOISY.name], digits=2)}."
    )
    return judge("jscds-text-vs-code", rule[NOISY.name], why, also={"shared": shared})


def judged(results: Results, costs: pd.DataFrame) -> dict[str, Judgement]:
    """All six with the tuning that `results` has, corrected together."""
    first = [judgement(results) for judgement in (half, seventy, best, nonlinear, text_vs_code)]
    return settle([*first, fast(results, costs)])


def without_one(results: Results, costs: pd.DataFrame) -> pd.DataFrame:
    """Verdict by claim (columns) where the validation images of one replication (index) choose no step size."""
    found = {
        seed: {name: j.verdict for name, j in judged(replace(results, left_out=seed), costs).items()}
        for seed in results.seeds
    }
    return pd.DataFrame.from_dict(found, orient="index")


def judgements(results: Results, costs: pd.DataFrame) -> dict[str, Judgement]:
    """All six, by identifier. A verdict that changes when any one replication is left out of tuning becomes
    inconclusive, and says so."""
    found, others = judged(results, costs), without_one(results, costs)
    for name, j in found.items():
        changed = others.index[others[name] != j.verdict].tolist()
        if j.verdict != "inconclusive" and changed:
            note = (
                f"It would be {j.verdict}, but that changes when one of {len(changed)} of the {len(others)} "
                f"replications is left out of tuning ({', '.join(map(str, changed))})."
            )
            found[name] = replace(j, verdict="inconclusive", why=f"{j.why} {note}")
    return found
