"""What the neighbours of SAGE cost and accept. The rules were written before a number was seen.

lossless: an arm is, where every decoded text is the target's own; one that is not fails the test of the library.
ahead, behind: the 95 % interval of the difference within seeds excludes zero, on the same pictures. pays: the 95 %
interval of the cost per token lies below 1, which is plain decoding's.
"""

import pandas as pd

from palimpsest.chapters.neighbours.decoding import Results
from palimpsest.chapters.shared.judging import level, show
from palimpsest.metrics.statistics import Estimate, estimate

RIVALS = {
    "trigrams, ADED's tree": "recycling, ADED's tree",
    "recycling, ADED's tree": "recycling, SAGE",
}
"""Arm -> the arm that differs from it in one thing; all others are compared with SAGE and its trained drafter."""


def difference(results: Results, arm: str, rival: str, measure: str) -> Estimate:
    """Arm minus rival within seeds, on the requests that both have."""
    own, other = results.by_seed(arm, measure, rival), results.by_seed(rival, measure, arm)
    return estimate((own - other).dropna())


def verdict(e: Estimate, better: int = 1) -> str:
    """The rule "ahead, behind"; better: the sign that is."""
    ahead, behind = (e.low > 0, e.high < 0)[:: better or 1]
    return "ahead" if ahead else "behind" if behind else "undecided"


def lossless(results: Results) -> pd.DataFrame:
    """Accepted drafts, nodes and cost of every arm, and the difference to the arm that it is compared with."""
    rows = []
    for arm, part in results.lossless.groupby("arm", sort=False):
        cost = estimate(results.by_seed(arm, "cost"))
        same = part.same.dropna() if "same" in part else pd.Series(dtype=float)
        row = {
            "arm": arm,
            "accepted per round": level(estimate(results.by_seed(arm, "tau")), ""),
            "nodes": f"{results.by_seed(arm, 'nodes').mean():.1f}",
            "cost per token": f"{cost.mean:.3f} [{cost.low:.3f}, {cost.high:.3f}]",
            "pays": "yes" if cost.high < 1 else "no" if cost.low > 1 else "undecided",
            "the target's text": f"{int(same.sum())} of {len(same)}" if len(same) else "replayed",
            "pictures": len(part),
        }
        if arm != "SAGE":
            rival = RIVALS.get(arm, "SAGE")
            e = difference(results, arm, rival, "tau")
            row |= {"compared with": rival, "accepted, difference": f"{show(e, '', 2)}: {verdict(e)}"}
        rows.append(row)
    return pd.DataFrame(rows)


def lossy(results: Results) -> pd.DataFrame:
    """Two models that take turns: what they cost, and how their texts differ from the target's."""
    rows = []
    for threshold, part in results.lossy.groupby("threshold", sort=True):
        by_seed = part.groupby("seed").mean(numeric_only=True)
        cost, told = estimate(by_seed.cost), by_seed[["true", "true of target"]].dropna()
        rows.append(
            {
                "threshold, bits": f"{threshold:g}",
                "tokens by the large model": level(estimate(100 * by_seed.large)),
                "cost per token": f"{cost.mean:.3f} [{cost.low:.3f}, {cost.high:.3f}]",
                "the target's text": f"{int(part.same.sum())} of {len(part)}",
                "tokens until it differs": level(estimate(by_seed.until), ""),
                "true statements": level(estimate(100 * told["true"])) if len(told) > 1 else None,
                "minus the target's": show(estimate(100 * (told["true"] - told["true of target"])))
                if len(told) > 1
                else None,
            }
        )
    return pd.DataFrame(rows)
