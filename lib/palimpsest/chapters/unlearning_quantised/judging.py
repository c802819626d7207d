"""What the judgements of the two unlearning chapters share: arms compared within seeds."""

import pandas as pd

from palimpsest.chapters.unlearning_quantised.arms import HEADLINE
from palimpsest.chapters.unlearning_quantised.cohort import dataset
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.chapters.unlearning_quantised.profiles import Setting
from palimpsest.metrics.statistics import Estimate, paired


def described(setting: Setting) -> str:
    """The setting that the claims of both chapters are judged in, in words."""
    precision, forget_set = HEADLINE
    return (
        f"{setting.samples} images of {dataset(setting.dataset).name}, memorised by {setting.architecture}; "
        f"{precision}, {forget_set} forgotten in {setting.unlearn_epochs} epochs; every method tuned over its grid "
        f"on {len(setting.tuning_seeds)} other seed(s); {len(setting.seeds)} seeds"
    )


def difference(results: Results, column: str, a: str, b: str, at: tuple[str, str] = HEADLINE) -> Estimate:
    """Arm a minus arm b within seeds, both at (precision, forget set) `at`."""
    return paired(results.column(column, a, *at), results.column(column, b, *at))


def to_retrain(results: Results, column: str, method: str, at: tuple[str, str] = HEADLINE) -> pd.Series:
    """|method minus Retrain| of a column by seed."""
    return (results.column(column, method, *at) - results.column(column, "retrain", *at)).abs()


def advantage(results: Results, method: str, others, at: tuple[str, str] = HEADLINE) -> dict[str, Estimate]:
    """Gap of each other method minus gap of `method`, in points: positive where `method` is nearer to Retrain."""
    return {other: difference(results, "gap", other, method, at) for other in others}
