"""What the claims of SAGE are judged by: signals, their memory, accepted length by generation length."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from palimpsest.chapters.sage.results import Results
from palimpsest.training import seeds

LENGTHS = (10, 20, 40, 80)
"""Generation lengths at which accepted lengths are compared, in tokens."""
LAGS = tuple(range(1, 11))


def rounds(results: Results, arm: str) -> pd.DataFrame:
    """One row per drafted round of an arm: seed, request, "round", the "alpha" at its root, "before" (that of the
    round before) and the "accepted" drafts. The last round of a request, which its end may have cut, is left out."""
    parts = []
    for row in results.of(arm).itertuples():
        alphas = np.array(row.alphas[:-1], dtype=float)
        part = pd.DataFrame({"alpha": alphas, "accepted": row.accepted[:-1]})
        named = part.assign(seed=row.seed, request=row.request, round=range(len(part)))
        parts.append(named.assign(before=part.alpha.shift()))
    return pd.concat(parts).dropna(subset="alpha")


def correlation(table: pd.DataFrame, signal: str, outcome: str = "accepted") -> pd.Series:
    """Spearman's rank correlation of two columns, by seed."""
    known = table.dropna(subset=[signal, outcome])
    return pd.Series({seed: spearmanr(part[signal], part[outcome]).statistic for seed, part in known.groupby("seed")})


def discrimination(results: Results, signal: str) -> pd.Series:
    """Area under the ROC curve of `signal` ("alpha" or "first") for "the drafter's likeliest token is the target's",
    over all tokens of a seed's texts."""
    vision = results.followed[results.followed.pair == "vision"]
    return pd.Series({seed: roc_auc_score(part["rank"] == 0, part[signal]) for seed, part in vision.groupby("seed")})


def reliability(results: Results, bins: int = 10) -> pd.DataFrame:
    """By tenth of alpha: mean "alpha" and how often the drafter's likeliest token is the target's ("hit")."""
    vision = results.followed[results.followed.pair == "vision"]
    tenth = pd.cut(vision.alpha, np.linspace(0, 1, bins + 1), include_lowest=True)
    table = vision.assign(hit=vision["rank"] == 0).groupby(tenth, observed=True)
    return table.agg(alpha=("alpha", "mean"), hit=("hit", "mean"), n=("hit", "size")).reset_index(drop=True)


def memory(series: list[np.ndarray], lag: int) -> float:
    """Correlation of a quantity with itself `lag` steps before, over all pairs of all series together."""
    pairs = [(one[:-lag], one[lag:]) for one in series if len(one) > lag]
    before, after = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return float(np.corrcoef(before, after)[0, 1])


def memories(results: Results, unit: str) -> pd.DataFrame:
    """Autocorrelation of the drafter's alpha by seed and lag, in "token"s of the text or in "round"s of the static
    tree; "shuffled" is the same with the order within each text drawn at random."""
    followed = results.followed
    table = followed[followed.pair == "vision"] if unit == "token" else rounds(results, "static")
    found = []
    for seed, part in table.groupby("seed"):
        series = [one.alpha.to_numpy() for _, one in part.groupby("request")]
        generator = np.random.default_rng(seeds.derived(seed, "resamples"))
        shuffled = [generator.permutation(one) for one in series]
        for lag in LAGS:
            if max(map(len, series)) > lag + 1:
                row = {"seed": seed, "lag": lag, "unit": unit}
                found.append(row | {"memory": memory(series, lag), "shuffled": memory(shuffled, lag)})
    return pd.DataFrame(found)


def tau_until(results: Results, arm: str, length: int) -> pd.Series:
    """Accepted drafts per round over the first `length` tokens, by seed, of texts that are as long as the longest of
    `LENGTHS`: the same texts at every length. The round that crosses the length counts."""
    found = {}
    for seed, rows in results.of(arm).groupby("seed"):
        accepted = []
        for row in rows.itertuples():
            if len(row.tokens) >= max(LENGTHS):
                after = 1 + np.cumsum(np.array(row.accepted) + 1)  # tokens of the text after each round
                accepted += row.accepted[: int(np.searchsorted(after, length)) + 1]
        found[seed] = np.mean(accepted) if accepted else np.nan
    return pd.Series(found)


def length_gain(results: Results, arm: str, rival: str) -> pd.DataFrame:
    """By seed (rows) and length (columns): how much longer `arm`'s accepted length is than `rival`'s, in percent."""
    return pd.DataFrame({n: 100 * (tau_until(results, arm, n) / tau_until(results, rival, n) - 1) for n in LENGTHS})
