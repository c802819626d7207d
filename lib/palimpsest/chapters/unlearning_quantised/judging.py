"""What the judgements of the two unlearning chapters share: arms compared within seeds, and the words for it."""

import pandas as pd

from palimpsest.chapters.unlearning_quantised.conditions import HEADLINE
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.metrics.statistics import Estimate, holm, paired

BASELINES = (
    *("fine-tune", "gradient ascent", "NegGrad+", "random label", "l1-sparse", "SalUn", "SCRUB", "Bad Teacher"),
    *("SSD", "influence", "boundary shrink", "LAF"),
)
"""Published methods that are neither of the two papers'."""

LABEL_METHODS = ("random label", "SalUn", "Q-MUL")


def verdict(holds: bool, trend: bool) -> str:
    return "reproduced" if holds else "trend only" if trend else "not reproduced"


def show(e: Estimate, unit: str = "points", digits: int = 1) -> str:
    return f"{e.mean:+.{digits}f} {unit} [{e.low:+.{digits}f}, {e.high:+.{digits}f}]"


def level(e: Estimate, unit: str = "%") -> str:
    return f"{e.mean:.1f} {unit} [{e.low:.1f}, {e.high:.1f}]"


def difference(results: Results, column: str, a: str, b: str, at: tuple[str, str] = HEADLINE) -> Estimate:
    """Arm a minus arm b within seeds, both at (precision, forget set) `at`."""
    return paired(results.column(column, a, *at), results.column(column, b, *at))


def to_retrain(results: Results, column: str, method: str, at: tuple[str, str] = HEADLINE) -> pd.Series:
    """|method minus Retrain| of a column by seed."""
    return (results.column(column, method, *at) - results.column(column, "retrain", *at)).abs()


def advantage(results: Results, method: str, others, at: tuple[str, str] = HEADLINE) -> dict[str, Estimate]:
    """Gap of each other method minus gap of `method`, in points: positive where `method` is nearer to Retrain."""
    return {other: difference(results, "gap", other, method, at) for other in others}


def ahead(differences: dict[str, Estimate]) -> set[str]:
    """The names where the difference is positive and survives Holm's correction over all of them."""
    return {name for name in holm({n: e.p for n, e in differences.items()}) if differences[name].mean > 0}


def behind(differences: dict[str, Estimate]) -> set[str]:
    """As `ahead`, where the difference is negative."""
    return {name for name in holm({n: e.p for n, e in differences.items()}) if differences[name].mean < 0}


def names(found: set[str]) -> str:
    return f"{len(found)} ({', '.join(sorted(found))})" if found else "none"
