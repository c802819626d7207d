"""The tables of SAGE's recorded rows. None computes a result but intervals over seeds."""

import pandas as pd

from palimpsest.chapters.sage.claims import NAMES
from palimpsest.metrics.statistics import estimate

SHOWN = ("class in descriptions", "levels right", "drafter agrees", "tokens")
"""What is told of the pair, see `build.pair_quality`."""


def speeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Tokens per second without the prefills, arm by seed."""
    rate = (rows["timed tokens"] - rows["timed requests"]) / rows["timed decode"]
    return rate.groupby([rows.arm, rows.seed], sort=False).first().unstack().dropna()


def arms(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, means over seeds and 95 % intervals: accepted drafts, nodes and levels per round, forwards per
    token, texts that are plain decoding's, and the measured speed, absolute and relative to plain decoding here."""
    by_arm, rate = rows.groupby("arm", sort=False), speeds(rows)
    found = []
    for arm, part in by_arm:
        row = {"policy": NAMES.get(arm, arm)}
        if part.tau.notna().all():
            tau = estimate(part.tau)
            row |= {
                "accepted per round": f"{tau.mean:.2f} [{tau.low:.2f}, {tau.high:.2f}]",
                "nodes": round(part.nodes.mean(), 1),
                "levels": round(part.levels.mean(), 1),
                "cost a token": round(part.cost.mean(), 3),
                "same text": f"{part.same.mean():.1%}",
            }
        if arm in rate.index:
            relative = estimate(rate.loc[arm] / rate.loc["autoregressive"])
            row |= {
                "tokens/s": round(rate.loc[arm].mean(), 1),
                "speed": f"{relative.mean:.2f} [{relative.low:.2f}, {relative.high:.2f}]",
            }
        found.append(row)
    return pd.DataFrame(found)


def pair(measured: dict) -> pd.DataFrame:
    """What the pair can do on held-out pictures."""
    shares = pd.Series({name: measured["quality"][name] for name in SHOWN}, dtype=float)
    return shares.round(3).rename_axis("what").reset_index(name="measured")


def forwards(measured: dict) -> pd.DataFrame:
    """Milliseconds of one forward by its number of rows: c(N) of target and drafter."""
    table = pd.DataFrame(measured["forwards"]).pivot(index="rows", columns="model", values="seconds")
    return (1e3 * table[["target", "drafter"]]).round(2).reset_index().rename_axis(columns=None)
