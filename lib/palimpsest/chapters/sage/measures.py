"""What the claims of SAGE are judged by: signals, their memory, accepted length by generation length."""

from functools import cache

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from palimpsest.chapters.sage.results import Results
from palimpsest.training import seeds

LENGTHS = (10, 20, 40, 80)
"""Generation lengths at which accepted lengths are compared, in tokens."""
LAGS = tuple(range(1, 11))
PERMUTATIONS = 100


def named(arm: str, pair: str) -> str:
    """The arm of that name for another pair than "vision"."""
    return arm if pair == "vision" else f"{arm}, {pair}"


def rounds(results: Results, arm: str) -> pd.DataFrame:
    """One row per drafted round of an arm: seed, request, "round", the "alpha" at its root, "before" (that of the
    round before) and the "accepted" drafts. The last round of a request, which its end may have cut, is left out."""
    parts = []
    for row in results.of(arm).itertuples():
        alphas = np.array(row.alphas[:-1], dtype=float)
        part = pd.DataFrame({"alpha": alphas, "accepted": row.accepted[:-1]})
        whose = part.assign(seed=row.seed, request=row.request, round=range(len(part)))
        parts.append(whose.assign(before=part.alpha.shift()))
    return pd.concat(parts).dropna(subset="alpha")


def correlation(table: pd.DataFrame, signal: str, outcome: str = "accepted") -> pd.Series:
    """Spearman's rank correlation of two columns, by seed."""
    known = table.dropna(subset=[signal, outcome])
    return pd.Series({seed: spearmanr(part[signal], part[outcome]).statistic for seed, part in known.groupby("seed")})


def discrimination(results: Results, signal: str, pair: str = "vision") -> pd.Series:
    """Area under the ROC curve of `signal` ("alpha" or "first") for "the drafter's likeliest token is the target's",
    over all tokens of a seed's texts."""
    known = results.held[results.held.pair == pair]
    return pd.Series({seed: roc_auc_score(part["rank"] == 0, part[signal]) for seed, part in known.groupby("seed")})


def reliability(results: Results, pair: str, bins: int = 10) -> pd.DataFrame:
    """By tenth of alpha: mean "alpha" and how often the drafter's likeliest token is the target's ("hit")."""
    known = results.held[results.held.pair == pair]
    tenth = pd.cut(known.alpha, np.linspace(0, 1, bins + 1), include_lowest=True)
    table = known.assign(hit=known["rank"] == 0).groupby(tenth, observed=True)
    return table.agg(alpha=("alpha", "mean"), hit=("hit", "mean"), n=("hit", "size")).reset_index(drop=True)


def memory(series: list[np.ndarray], lag: int) -> float:
    """Correlation of a quantity with itself `lag` steps before, over all pairs of all series together."""
    pairs = [(one[:-lag], one[lag:]) for one in series if len(one) > lag]
    before, after = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return float(np.corrcoef(before, after)[0, 1])


@cache  # the figure and the claim read the same
def memories(results: Results, unit: str, pair: str) -> pd.DataFrame:
    """Autocorrelation of the drafter's alpha by seed and lag, in "token"s of the text or in SAGE's own "round"s:
    "memory", the number of "pairs" behind it, and "null", what `PERMUTATIONS` orders drawn at random within each text
    have at lag 1. An order at random has the same at every lag."""
    tokens = unit == "token"
    table = results.held[results.held.pair == pair] if tokens else rounds(results, named("sage", pair))
    found = []
    for seed, part in table.groupby("seed"):
        series = [one.alpha.to_numpy() for _, one in part.groupby("request")]
        generator = np.random.default_rng(seeds.derived(seed, "resamples"))
        null = [memory([generator.permutation(one) for one in series], 1) for _ in range(PERMUTATIONS)]
        for lag in LAGS:
            if max(map(len, series)) > lag + 1:
                count = sum(max(len(one) - lag, 0) for one in series)
                row = {"seed": seed, "lag": lag, "memory": memory(series, lag), "pairs": count}
                found.append(row | {"null": float(np.mean(null)), "nulls": null})
    return pd.DataFrame(found)


def permutation_p(table: pd.DataFrame, lag: int = 1) -> float:
    """Share of the random orders whose mean correlation over seeds reaches that of the texts, both counted in."""
    part = table[table.lag == lag]
    null = np.array(part.nulls.to_list()).mean(0)
    return float((1 + (null >= part.memory.mean()).sum()) / (1 + len(null)))


def tau_until(results: Results, arm: str, length: int) -> pd.Series:
    """Accepted drafts per round over the first `length` tokens, by seed, of texts that are as long as the longest of
    `LENGTHS`: the same texts at every length. The round that crosses the length counts."""
    found = {}
    for seed, rows in results.of(arm).groupby("seed"):
        accepted = []
        for row in rows.itertuples():
            if row.length >= max(LENGTHS):
                after = 1 + np.cumsum(np.array(row.accepted) + 1)  # tokens of the text after each round
                accepted += row.accepted[: int(np.searchsorted(after, length)) + 1]
        found[seed] = np.mean(accepted) if accepted else np.nan
    return pd.Series(found)


def length_gain(results: Results, arm: str, rival: str) -> pd.DataFrame:
    """By seed (rows) and length (columns): how much longer `arm`'s accepted length is than `rival`'s, in percent."""
    return pd.DataFrame({n: 100 * (tau_until(results, arm, n) / tau_until(results, rival, n) - 1) for n in LENGTHS})
