"""The tables of the two unlearning chapters. None computes a result."""

import pandas as pd

from palimpsest.chapters.shared.judging import ahead, behind, show
from palimpsest.chapters.unlearning_quantised.arms import HEADLINE
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.chapters.unlearning_quantised.judging import advantage
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
    """Every method's measures at one condition: means over seeds, shares in percent, nearest to Retrain first."""
    columns = {
        **{"FA": "FA", "RA": "RA", "TA": "TA", "MIA": "MIA", "gap": "avg gap", "rte": "RTE"},
        **{"entropy": "H, nats", "loss_auc": "loss AUC", "mentropy_auc": "Mentr AUC", "cka": "CKA"},
        **{"codes_changed": "codes changed", "relearn": "relearn", "value": "tuned value"},
    }
    rows = results.rows.query("precision == @at[0] and forget_set == @at[1]")
    table = pd.DataFrame(
        {
            shown: {m: results.column(name, m, *at).astype(float).mean() for m in rows.method.unique()}
            for name, shown in columns.items()
        }
    )
    widths = {m: (e := estimate(results.column("gap", m, *at))).high - e.mean for m in table.index}
    table.insert(5, "±", pd.Series(widths))
    digits = {"FA": 1, "RA": 1, "TA": 1, "MIA": 1, "avg gap": 1, "±": 1, "relearn": 1, "codes changed": 1}
    table = table.sort_values("avg gap").round({name: digits.get(name, 2) for name in table if name != "tuned value"})
    return table.reset_index(names="method")


def beside_fine_tuning(results: Results, methods, at: tuple[str, str] = HEADLINE) -> pd.DataFrame:
    """Gap of each method minus that of plain fine-tuning, paired within seeds, and what the difference is made of.

    The average gap is the mean of four distances to Retrain, so a quarter of each distance's change, in points, adds
    up to the difference. "nearer" and "farther" have survived Holm's correction over `methods`. A method that is not
    nearer either gains less than the seeds vary, or loses, and then most by the measure that is named.
    """
    differences = advantage(results, "fine-tune", methods, at)
    farther, nearer = ahead(differences), behind(differences)
    rows = []
    for method, difference in sorted(differences.items(), key=lambda item: item[1].mean):
        parts, levels = {}, {}
        for name in MEASURES:
            own, plain, target = (results.column(name, m, *at) for m in (method, "fine-tune", "retrain"))
            parts[name] = float(((own - target).abs() - (plain - target).abs()).mean()) / 4
            levels[name] = (float(own.mean()), float(target.mean()))
        worst = max(parts, key=parts.get)
        own, target = levels[worst]
        why = f"{worst} {own:.0f} %, Retrain {target:.0f} %: {REASONS[worst, own > target]}"
        if difference.mean <= 0:
            why = "" if method in nearer else "it gains less than the seeds vary"
        rows.append(
            {
                "method": method,
                "gap minus fine-tune's": show(difference),
                "to Retrain": "nearer" if method in nearer else "farther" if method in farther else "not told apart",
                **{f"by {name}": round(parts[name], 1) for name in MEASURES},
                "why not nearer": why,
            }
        )
    return pd.DataFrame(rows)


def beside_recorded(results: Results, recorded: pd.DataFrame, profiles: tuple[str, str]) -> pd.DataFrame:
    """The rows `recorded` at the headline beside those of `results`; `profiles` names the two, in this order.

    One row per method that was recorded, nearest to Retrain first: FA, RA, TA and MIA in percent and the average gap
    in points, means over seeds, and the tuned value.
    """
    rows = recorded.query("precision == @HEADLINE[0] and forget_set == @HEADLINE[1]").groupby("method")
    shown = {**{m: (100, m, 1) for m in MEASURES}, "gap": (1, "avg gap", 1), "value": (1, "value", 6)}
    table = {}
    for column, (scale, name, digits) in shown.items():
        there = scale * rows[column].mean()
        here = pd.Series({method: results.column(column, method).mean() for method in there.index})
        table |= {f"{name}, {profiles[0]}": there.round(digits), f"{name}, {profiles[1]}": here.round(digits)}
    return pd.DataFrame(table).sort_values(f"avg gap, {profiles[0]}").reset_index(names="method")


def weights_by_epoch(rows: pd.DataFrame) -> pd.DataFrame:
    """The forget set's adaptive weight w_f in each epoch at the headline, a row per method that computes it: means
    over seeds, with the step size."""
    part = rows.query("precision == @HEADLINE[0] and forget_set == @HEADLINE[1]")
    part = part[part.weight_f.map(len) > 0]
    table = pd.DataFrame(part.weight_f.tolist()).rename(columns=lambda epoch: f"w_f, epoch {epoch + 1}")
    table = table.assign(method=part.method.to_numpy(), value=part.value.to_numpy())
    return table.groupby(["method", "value"], sort=False).mean().round(3).reset_index()
