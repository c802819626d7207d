"""What all profiles measure by: the bar at which runs are compared, and the columns that set a row against its target
and oracle."""

import pandas as pd

from palimpsest.metrics import tofu

BAR = 0.95
"""Share of its start's retention that a run must keep on the validation half."""


def gap_closed(value: float, target: float, oracle: float) -> float:
    """The share of the way from target to oracle."""
    return (target - value) / (target - oracle)


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with "gap closed", and where truth ratios were taken "D" and "log10 p" against the oracle's, and
    "PrivLeak"; the oracle is that of the same seed, pruned alike."""
    keys = ["seed", "pruner", "sparsity"]
    alike = rows.assign(**{"pruner": rows.pruner.where(rows.kind != "E"), "sparsity": rows.sparsity})
    alike.loc[rows.kind == "E", ["pruner", "sparsity"]] = ["none", "0"]
    where = pd.MultiIndex.from_frame(alike[keys])
    target, oracle = (
        rows[rows.kind == whose].set_index(keys).loc[where].reset_index(drop=True) for whose in ("target", "oracle")
    )
    rows = rows.reset_index(drop=True)
    rows["gap closed"] = gap_closed(rows.forget, target.forget, oracle.forget)
    examined = rows.utility.notna()
    for index in rows.index[examined]:
        mine, theirs = rows.loc[index], oracle.loc[index]
        quality = tofu.forget_quality(mine.truth_ratio, theirs.truth_ratio)
        rows.loc[index, "D"] = quality[1]
        rows.loc[index, "log10 p"] = tofu.log10_p(quality[1], len(mine.truth_ratio))
        rows.loc[index, "PrivLeak"] = tofu.priv_leak(*mine.min_k, *theirs.min_k)
    return rows
