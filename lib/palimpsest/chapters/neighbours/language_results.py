"""What the chapter's experiment in language gives."""

from dataclasses import dataclass

import pandas as pd

from palimpsest.chapters.sau.measures import gap_closed

ORIGINAL, RETRAIN = "target", "oracle"
"""What rows call the model that learnt everything, and the one that never met the forget set."""


@dataclass(frozen=True, eq=False)
class Results:
    """`rows`: one per model, with "gap closed" as in the SAU chapter and the columns of `language_measures.TESTS`;
    `ablated`: the rows of that job; `search`: the trials that chose the rivals' settings, None where
    none are shipped."""

    rows: pd.DataFrame
    ablated: pd.DataFrame
    search: pd.DataFrame | None

    def column(self, name: str, arm: str, recipe: tuple[str, str]) -> pd.Series:
        """One column of an arm by seed. ValueError for an arm that was not run at the recipe."""
        rows = self.rows[self.rows.arm.eq(arm) & self.rows.pruner.eq(recipe[0]) & self.rows.sparsity.eq(recipe[1])]
        if rows.empty:
            raise ValueError(f"no arm {arm} at {recipe} was run")
        return rows.set_index("seed")[name].sort_index()


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with "gap closed", between the original and Retrain of their seed and recipe."""
    keys = ["seed", "pruner", "sparsity"]
    ends = [rows[rows.arm.eq(whose)].set_index(keys).forget for whose in (ORIGINAL, RETRAIN)]
    where = pd.MultiIndex.from_frame(rows[keys])
    original, retrain = (end.loc[where].to_numpy() for end in ends)
    return rows.assign(**{"gap closed": gap_closed(rows.forget.to_numpy(), original, retrain)})
