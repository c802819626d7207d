"""Intervals and decisions from few seeds. The distributions are scipy's, Holm's correction statsmodels'; the paired
design is ours."""

import math
from dataclasses import dataclass

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


def holm(p_values: dict[str, float], level: float = 0.05) -> set[str]:
    """The names that Holm's step-down procedure (Holm 1979) rejects at family-wise error `level`.

    Raises ValueError for a p value or level outside [0, 1].
    """
    if not 0 <= level <= 1:
        raise ValueError(f"level: got {level}, want a number in [0, 1]")
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"p_values: got {p} for {name!r}, want a number in [0, 1]")
    if not p_values:
        return set()
    from statsmodels.stats.multitest import multipletests  # seconds to import, which only this function needs

    rejected, *_ = multipletests(list(p_values.values()), level, method="holm")
    return {name for name, reject in zip(p_values, rejected, strict=True) if reject}
