"""What the SAGE experiment found, and the three numbers that its decodes are measured by."""

from dataclasses import asdict, dataclass
from functools import cached_property

import pandas as pd

from palimpsest.chapters.sage.arms import Arm


@dataclass(frozen=True, eq=False)
class Results:
    """`tuning`: a row per policy and setting. `decodes`: a row per arm, seed and request, with "same": whether the
    tokens are plain decoding's. `arms` by name. `followed`: a row per token of the target, see `experiment.followed`.
    `prices` by pair, see `Family.price`. `timed`: rows of `cost.timed`, empty where no seconds are taken. `measured`:
    "quality" of the pair, "forwards": c(N), and "acceptance" by rank of the drafter's guesses, of the pair that
    policies were tuned on."""

    tuning: pd.DataFrame
    decodes: pd.DataFrame
    arms: dict[str, Arm]
    followed: pd.DataFrame
    prices: dict[str, float]
    timed: pd.DataFrame
    measured: dict

    @property
    def tuned(self) -> list[dict]:
        """The options chosen, as rows, and what was measured."""
        return [{"arm": name, **asdict(arm)} for name, arm in self.arms.items()] + [self.measured]

    def of(self, arm: str) -> pd.DataFrame:
        """The decodes of one arm. ValueError for an arm that was not run."""
        rows = self.decodes[self.decodes.arm == arm]
        if rows.empty:
            raise ValueError(f"no arm {arm!r} was run")
        return rows

    def by_seed(self, arm: str, measure) -> pd.Series:
        """`measure` (of the rows of one seed) by seed."""
        return pd.Series({seed: measure(rows) for seed, rows in self.of(arm).groupby("seed")})

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row per arm and seed; peers were timed only. Of the decodes: "tau", "nodes" and "levels" per round,
        "cost" per token, "tokens", "rounds", "same" (share of the texts that are plain decoding's); of what was timed
        the sums over requests."""
        counted = []
        for (arm, seed), part in self.decodes.groupby(["arm", "seed"], sort=False):
            rounds = int(part.accepted.map(len).sum())
            found = {"tau": tau(part), "nodes": size(part), "levels": part.depths.map(sum).sum() / rounds}
            found["cost"] = forwards_per_token(part, self.prices[self.arms[arm].pair])
            found |= {"tokens": int(part.tokens.map(len).sum()), "rounds": rounds, "same": part.same.mean()}
            counted.append({"arm": arm, "seed": seed, **found})
        if self.timed.empty:
            return pd.DataFrame(counted)
        taken = self.timed.groupby(["arm", "seed"], sort=False).sum(min_count=1).add_prefix("timed ").reset_index()
        return pd.DataFrame(counted).merge(taken, on=["arm", "seed"], how="outer", sort=False)


def tau(rows: pd.DataFrame) -> float:
    """Accepted drafts per round, all rounds of these requests alike."""
    return rows.accepted.map(sum).sum() / rows.accepted.map(len).sum()


def size(rows: pd.DataFrame) -> float:
    """Drafted nodes per round."""
    return rows.sizes.map(sum).sum() / rows.accepted.map(len).sum()


def forwards_per_token(rows: pd.DataFrame, price: float) -> float:
    """Target forwards per token, a drafter's forward counted as `price` of one; prefills apart."""
    forwards = (rows["target forwards"] - 1).sum() + price * (rows["draft forwards"] - 1).clip(lower=0).sum()
    return forwards / (rows.tokens.map(len) - 1).sum()
