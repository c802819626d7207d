"""What is seen in figures of the SAGE chapter that no text speaks of, a sentence each, with the figure's numbers."""

import pandas as pd

from palimpsest.chapters.sage.requests import CANDIDATES
from palimpsest.chapters.sage.results import Costs, Results


def lemma(results: Results) -> str:
    drafts = results.held[results.held.pair == "vision"]
    stated = (1 + drafts.alpha * (CANDIDATES - 1)) / CANDIDATES
    first, corrected = drafts["first"], CANDIDATES ** (drafts.alpha - 1)
    rounding = 1e-4  # α is stored in float32
    return (
        f"Of this drafter's {len(drafts)} distributions {100 * (first < stated - rounding).mean():.0f} % lie below "
        f"the lemma's bound, {int((first < corrected - rounding).sum())} below the corrected one."
    )


def verify_cost(table: pd.DataFrame) -> str:
    """`table`: the recorded seconds of forwards, by model and rows."""
    costs, most = Costs(table), int(table.rows.max())
    target, drafter = (costs.seconds(model, most) / costs.unit for model in ("target", "drafter"))
    one = costs.seconds("drafter", 1) / costs.unit
    return (
        f"A forward of the target over {most} rows costs {target:.1f} of one row; one of the drafter costs {one:.2f} "
        f"over one row and {drafter:.2f} over {most}."
    )
