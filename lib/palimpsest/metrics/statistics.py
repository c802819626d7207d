"""Intervals and decisions from few seeds. The distributions are scipy's, Holm's correction statsmodels'; the paired
design is ours."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds: `mean`, sample standard deviation `sd`, `n` seeds, 95 % interval [`low`, `high`] and
    the two-sided p value of a t test against zero."""

    mean: float
    sd: float
    n: int
    low: float
    high: float
    p: float


def estimate(values) -> Estimate:
    """Mean and Student t interval of [n] values, one per seed. Raises ValueError below two finite values."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"values: got {values.tolist()}, want at least two finite numbers, one per seed")
    mean, sd, n = float(values.mean()), float(values.std(ddof=1)), len(values)
    if sd == 0:
        return Estimate(mean, 0.0, n, mean, mean, 1.0 if mean == 0 else 0.0)
    error = sd / math.sqrt(n)
    low, high = stats.t.interval(0.95, n - 1, loc=mean, scale=error)
    return Estimate(mean, sd, n, float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, n - 1)))


def paired(a, b) -> Estimate:
    """`estimate(a - b)` where a[i] and b[i] come from the same seed. Raises ValueError as `estimate` does."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"a, b: got shapes {a.shape} and {b.shape}, want the same seeds in the same order")
    return estimate(a - b)


def counted(value: float) -> Estimate:
    """What was counted once and cannot vary."""
    return Estimate(float(value), 0.0, 1, float(value), float(value), 1.0 if value == 0 else 0.0)


def p_against(e: Estimate, bar: float) -> float:
    """Two-sided p value of a t test of the mean against `bar`; 0 or 1 where nothing varies."""
    if e.sd == 0:
        return 1.0 if e.mean == bar else 0.0
    return float(2 * stats.t.sf(abs(e.mean - bar) * math.sqrt(e.n) / e.sd, e.n - 1))


def p_equivalent(e: Estimate, bar: float, margin: float) -> float:
    """p value of the two one-sided t tests (Schuirmann 1987) that the mean lies within `margin` of `bar`.

    It is at most 0.05 just where the 90 % interval lies within [bar - margin, bar + margin].
    """
    room = margin - abs(e.mean - bar)
    if e.sd == 0:
        return 0.0 if room > 0 else 1.0
    return float(stats.t.sf(room * math.sqrt(e.n) / e.sd, e.n - 1))


def needed(sd: float, margin: float, power: float = 0.8, most: int = 100_000) -> int:
    """The number of seeds at which a two-sided paired t test at 5 % finds an effect of `margin` with this power.

    `sd` is the standard deviation over seeds. `most` where even that does not suffice. Raises ValueError for an sd or
    a margin that is not above 0.
    """
    if not (sd > 0 and margin > 0):
        raise ValueError(f"sd, margin: got {sd} and {margin}, want two numbers above 0")
    from statsmodels.stats.power import TTestPower  # seconds to import, which few need

    reached, test = partial(TTestPower().power, effect_size=margin / sd, alpha=0.05), range(2, most)
    return bisect_left(test, power, key=lambda n: reached(nobs=n)) + 2


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Holm 1979), in the given order: at most `level` where the procedure rejects.

    Raises ValueError for a p value outside [0, 1].
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"p_values: got {p}, want numbers in [0, 1]")
    if len(p_values) < 2:  # as it is; statsmodels collects garbage at each call, a tenth of a second
        return list(p_values)
    from statsmodels.stats.multitest import multipletests  # seconds to import, which few need

    return multipletests(list(p_values), method="holm")[1].tolist()


def holm(p_values: dict[str, float], level: float = 0.05) -> set[str]:
    """The names that Holm's procedure rejects at family-wise error `level`.

    Raises ValueError for a p value or level outside [0, 1].
    """
    if not 0 <= level <= 1:
        raise ValueError(f"level: got {level}, want a number in [0, 1]")
    adjusted = holm_adjusted(list(p_values.values()))
    return {name for name, p in zip(p_values, adjusted, strict=True) if p <= level}
