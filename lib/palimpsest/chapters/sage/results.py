"""What the SAGE experiment found, and the numbers that its decodes are measured by."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from palimpsest.chapters.sage.arms import Arm


@dataclass(frozen=True, eq=False)
class Costs:
    """Seconds of one forward by its number of rows, of target and drafter, as measured; between two measured numbers
    of rows on the straight line."""

    table: pd.DataFrame
    """Columns "model", "rows", "seconds"."""

    def seconds(self, model: str, rows) -> np.ndarray:
        """Of forwards of "target" or "drafter" over so many rows each."""
        part = self.table[self.table.model == model]
        return np.interp(rows, part.rows, part.seconds)

    @property
    def unit(self) -> float:
        """Of the target's forward of one row."""
        return float(self.seconds("target", 1))


@dataclass(frozen=True, eq=False)
class Results:
    """`tuning`: a row per pair, policy, setting and tuning seed. `decodes`: a row per arm, seed and request, replayed
    or decoded ("how"); "same", of a decode: whether its tokens are plain decoding's. `checked`: the decodes of arms
    that are replayed too, with "equal": whether all of a text's rounds are the replay's. `arms` by name. `held`: a
    row per pair and token of the target, see `experiment.held`. `curves`: "tau" and "nodes" by pair, policy, axis,
    value and seed. `costs` of forwards. `timed`: rows of `cost.timed`, empty where no seconds are taken. `measured`:
    "quality" of the pair, "forwards": c(N), and "acceptance" by pair and rank of the drafter's guesses."""

    tuning: pd.DataFrame
    decodes: pd.DataFrame
    checked: pd.DataFrame
    arms: dict[str, Arm]
    held: pd.DataFrame
    curves: pd.DataFrame
    costs: Costs
    timed: pd.DataFrame
    measured: dict

    @property
    def tuned(self) -> list[dict]:
        """The options chosen, as rows, and what was measured."""
        return [{"arm": name, **asdict(arm)} for name, arm in self.arms.items()] + [self.measured]

    @cached_property
    def _by_arm(self) -> dict[str, pd.DataFrame]:
        return dict(list(self.decodes.groupby("arm", sort=False)))

    def of(self, arm: str) -> pd.DataFrame:
        """The rows of one arm. ValueError for an arm that was not run."""
        if arm not in self._by_arm:
            raise ValueError(f"no arm {arm!r} was run")
        return self._by_arm[arm]

    def by_seed(self, arm: str, measure: Callable, beside: str | None = None) -> pd.Series:
        """`measure` (of the rows of one seed) by seed; `beside`: on the requests of that arm alone."""
        rows = self.of(arm)
        if beside is not None:
            common = set(zip(self.of(beside).seed, self.of(beside).request, strict=True))
            rows = rows[[pair in common for pair in zip(rows.seed, rows.request, strict=True)]]
        return pd.Series({seed: measure(part) for seed, part in rows.groupby("seed")})

    @cached_property
    def agreement(self) -> dict[str, float]:
        """By pair, the share of the target's tokens that are the drafter's first choice."""
        return (self.held["rank"] == 0).groupby(self.held.pair, sort=False).mean().to_dict()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row per arm and seed; peers were timed only. Of the decodes: "tau", "nodes" and "levels" per round,
        "cost" per token, "tokens", "rounds", "same" (share of the decoded texts that are plain decoding's); of what
        was timed the sums over requests."""
        counted = []
        for (arm, seed), part in self.decodes.groupby(["arm", "seed"], sort=False):
            rounds = int(part.accepted.map(len).sum())
            found = {"tau": tau(part), "nodes": size(part), "levels": part.depths.map(sum).sum() / rounds}
            found |= {"cost": cost_per_token(part, self.costs), "tokens": int(part.length.sum()), "rounds": rounds}
            counted.append({"arm": arm, "seed": seed, **found, "same": part.same.dropna().astype(float).mean()})
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


def seconds_per_token(rows: pd.DataFrame, costs: Costs) -> float:
    """Forwards of both models by their measured costs, over the tokens after each first one; prefills and the host's
    work apart. A round verifies its tree and the root; the nodes that the drafter expands are shared evenly among
    its forwards of the request, each of which has one row at least."""
    verified = np.concatenate(rows.sizes.to_list()) + 1
    forwards = rows["draft forwards"].to_numpy()
    expanded = rows.expanded.map(sum).to_numpy() + rows.expanded.map(len).to_numpy()
    each = np.maximum(expanded / np.maximum(forwards, 1), 1)
    spent = costs.seconds("target", verified).sum() + (forwards * costs.seconds("drafter", each)).sum()
    return float(spent / (rows.length - 1).sum())


def cost_per_token(rows: pd.DataFrame, costs: Costs) -> float:
    """`seconds_per_token` in forwards of the target over one row, which is what plain decoding costs."""
    return seconds_per_token(rows, costs) / costs.unit
