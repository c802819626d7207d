"""The tables of the two unlearning chapters. None computes a result."""

import pandas as pd

from palimpsest.chapters.shared.judging import ahead, behind, level, show
from palimpsest.chapters.unlearning_quantised.arms import HEADLINE, PLACEBO
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.chapters.unlearning_quantised.judging import advantage, difference, to_retrain
from palimpsest.metrics.statistics import estimate

MEASURES = ("FA", "RA", "TA", "MIA")
REASONS = {
    ("FA", True): "it still remembers",
    ("FA", False): "it forgets more than a network that never saw the samples",
    ("RA", True): "it fits the retain set more closely",
    ("RA", False): "it damages what is kept",
    ("TA", True): "it generalises better, which counts as a gap too",
    ("TA", False): "it damages what generalises",
    ("MIA", True): "its forget samples look less like members than unseen ones do",
    ("MIA", False): "its forget samples still look like members",
}
"""(measure, is it above Retrain's?) -> what that says."""


def method_table(results: Results, at: tuple[str, str] = HEADLINE) -> pd.DataFrame:
    """Every method's measures at one condition: means over seeds, shares in percent, nearest to Retrain first.

    "steps" and "backward" are what each method was given: optimiser steps, and samples passed backward. "values" is
    the range of the values that its seeds were tuned to, "diverged" how many of them diverged there.
    """
    columns = {
        **{"FA": "FA", "RA": "RA", "TA": "TA", "MIA": "MIA", "gap": "avg gap", "rte": "RTE"},
        **{"steps": "steps", "backward": "backward", "entropy": "H, nats", "sure": "sure"},
        **{"loss_auc": "loss AUC", "mentropy_auc": "Mentr AUC", "cka": "CKA", "codes_changed": "codes changed"},
    }
    rows = results.rows.query("precision == @at[0] and forget_set == @at[1]")
    table = pd.DataFrame(
        {
            shown: {m: results.column(name, m, *at).astype(float).mean() for m in rows.method.unique()}
            for name, shown in columns.items()
        }
    )
    widths = {m: (e := estimate(results.column("gap", m, *at).dropna())).high - e.mean for m in table.index}
    table.insert(5, "±", pd.Series(widths))
    one_digit = ("FA", "RA", "TA", "MIA", "avg gap", "±", "sure", "codes changed")
    digits = dict.fromkeys(table, 2) | dict.fromkeys(one_digit, 1) | {"steps": 0, "backward": 0}
    table = table.sort_values("avg gap").round(digits)
    own = rows.groupby("method")
    ends = own.value.agg(["min", "max"])
    table["values"] = [
        f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in ends.loc[table.index].values
    ]
    table["diverged"] = own.diverged.sum().loc[table.index].astype(int)
    return table.reset_index(names="method")


def tuning_table(results: Results, precision: str = HEADLINE[0]) -> pd.DataFrame:
    """What tuning saw: the gap of every method on validation images at every value, mean and standard deviation over
    all seeds in points, and how often each value was chosen."""
    rows = []
    for method, tried in results.tried.query("precision == @precision").groupby("method", sort=False):
        values = pd.Series(results.values[precision, method])
        row = {"method": method}
        for place, (value, cell) in enumerate(tried.groupby("value"), 1):
            gap = (
                "diverged"
                if cell.tuning_gap.isna().any()
                else f"{cell.tuning_gap.mean():.1f} ± {cell.tuning_gap.std():.1f}"
            )
            row[f"value {place}"] = f"{value:g}: {gap} ({(values == value).sum()})"
        rows.append(row)
    return pd.DataFrame(rows)


def floor_table(results: Results) -> pd.DataFrame:
    """What nothing but chance does: one method under two names, and Retrain against another Retrain, as differences
    in points with 95 % intervals."""
    first, second = PLACEBO
    rows = []
    for name in ("gap", *MEASURES):
        own = difference(results, name, first, second)
        row = {
            "measure": "avg gap" if name == "gap" else name,
            f"{first}, minus itself under another name": show(own),
        }
        again = results.column(name, "retrain again")
        row["Retrain again, distance from Retrain"] = level(
            estimate(again if name == "gap" else to_retrain(results, name, "retrain again")), "points"
        )
        rows.append(row)
    return pd.DataFrame(rows)


def beside_fine_tuning(results: Results, methods, at: tuple[str, str] = HEADLINE) -> pd.DataFrame:
    """Gap of each method minus that of plain fine-tuning, paired within seeds, and what the difference is made of.

    The average gap is the mean of four distances to Retrain, so a quarter of each distance's change, in points, adds
    up to the difference. "nearer" and "farther" have survived Holm's correction over `methods`. A method that is not
    nearer either gains less than the seeds vary, or loses, and then most by the measure that is named.
    """
    differences = advantage(results, "fine-tune", methods, at)
    farther, nearer = ahead(differences), behind(differences)
    rows = []
    for method, gain in sorted(differences.items(), key=lambda item: item[1].mean):
        parts, levels = {}, {}
        for name in MEASURES:
            own, plain, target = (results.column(name, m, *at) for m in (method, "fine-tune", "retrain"))
            parts[name] = float(((own - target).abs() - (plain - target).abs()).mean()) / 4
            levels[name] = (float(own.mean()), float(target.mean()))
        worst = max(parts, key=parts.get)
        own, target = levels[worst]
        why = f"{worst} {own:.0f} %, Retrain {target:.0f} %: {REASONS[worst, own > target]}"
        if gain.mean <= 0:
            why = "" if method in nearer else "it gains less than the seeds vary"
        rows.append(
            {
                "method": method,
                "gap minus fine-tune's": show(gain),
                "to Retrain": "nearer" if method in nearer else "farther" if method in farther else "not told apart",
                **{f"by {name}": round(parts[name], 1) for name in MEASURES},
                "why not nearer": why,
            }
        )
    return pd.DataFrame(rows)
