"""What the judgements of the two unlearning chapters share: arms compared within seeds, and the noise of tuning."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from palimpsest.chapters.shared.judging import names
from palimpsest.chapters.unlearning_quantised.arms import HEADLINE
from palimpsest.chapters.unlearning_quantised.cohort import dataset
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.chapters.unlearning_quantised.profiles import Setting
from palimpsest.ledger import Judgement
from palimpsest.metrics.statistics import Estimate, estimate


def described(setting: Setting) -> str:
    """The setting that the claims of both chapters are judged in, in words."""
    precision, forget_set = HEADLINE
    kept = setting.retain_samples
    return (
        f"{setting.samples} images of {dataset(setting.dataset).name}, memorised by {setting.architecture}; "
        f"{precision}, {forget_set} forgotten in {setting.unlearn_epochs} epochs of all forget and "
        f"{'all' if kept is None else kept} retain samples; {len(setting.seeds)} replications, each tuned on "
        f"{setting.tuned_on} other(s)"
    )


def within(a: pd.Series, b: pd.Series) -> Estimate:
    """a minus b by seed, over the seeds where both are there: a run that diverged has no measure."""
    return estimate((a - b).dropna())


def difference(results: Results, column: str, a: str, b: str, at: tuple[str, str] = HEADLINE) -> Estimate:
    """Arm a minus arm b within seeds, both at (precision, forget set) `at`."""
    return within(results.column(column, a, *at), results.column(column, b, *at))


def to_retrain(results: Results, column: str, method: str, at: tuple[str, str] = HEADLINE) -> pd.Series:
    """|method minus Retrain| of a column by seed."""
    return (results.column(column, method, *at) - results.column(column, "retrain", *at)).abs()


def advantage(results: Results, method: str, others, at: tuple[str, str] = HEADLINE) -> dict[str, Estimate]:
    """Gap of each other method minus gap of `method`, in points: positive where `method` is nearer to Retrain."""
    return {other: difference(results, "gap", other, method, at) for other in others}


def steadied(results: Results, judge: Callable[[Results], Judgement]) -> Judgement:
    """What `judge` says, and "inconclusive" where leaving one seed out of every tuning would change its verdict."""
    told = judge(results)
    changed = {
        str(seed): other.verdict
        for seed in sorted(results.tried.seed.unique())
        if (other := judge(results.without(seed))).verdict != told.verdict
    }
    if not changed:
        return told
    others = ", ".join(sorted(set(changed.values())))
    why = (
        f"The rule gives '{told.verdict}', but '{others}' when one seed is left out of tuning: "
        f"{names(set(changed))}. "
        f"{told.why}"
    )
    return replace(told, verdict="inconclusive", why=why)
