"""What is seen in the figures of the SAU chapter, a sentence each, with the figure's own numbers."""

import numpy as np
import pandas as pd

from palimpsest.chapters.sau.claims import NAMES, dense, gap
from palimpsest.chapters.sau.experiment import Results
from palimpsest.chapters.sau.profiles import SPARSITIES
from palimpsest.chapters.shared.judging import level, show
from palimpsest.metrics.statistics import estimate, paired


def lost_gradient(rows: pd.DataFrame) -> str:
    """`rows`: those of `probes.lost_gradient`."""
    by = rows.groupby(["sparsity", "layer"])[["share", "expected"]].mean()
    below = int((by.share < by.expected).sum())
    shares = ", ".join(
        f"{100 * part.share.mean():.0f} % of the gradient at {100 * part.expected.mean():.0f} % pruned"
        for _, part in rows.groupby("sparsity")
    )
    return f"On pruned weights fall {shares}: less than their share in {below} of {len(by)} layers and sparsities."


def by_sparsity(results: Results) -> str:
    first, last = SPARSITIES[0], SPARSITIES[-1]
    falls = " and ".join(
        f"of {NAMES[kind]} from {gap(results, kind, sparsity=first).mean():.1f} to "
        f"{gap(results, kind, sparsity=last).mean():.1f} %"
        for kind in ("C", "D wanda")
    )
    lead = paired(gap(results, "D wanda", sparsity=last), gap(results, "C", sparsity=last))
    return (
        f"Dense, the gap closed is {dense(results).mean():.1f} %; from {first} to {last} pruned it goes {falls}. At "
        f"{last} SAU minus masked is {show(lead)}."
    )


def truth_ratios(results: Results) -> str:
    middle = {
        kind: np.median(np.log10(np.concatenate([np.array(v) for v in results.column("truth_ratio", kind).dropna()])))
        for kind in ("target", "oracle", "A", "B", "C", "D wanda")
    }
    names = {"target": "target", "oracle": "oracle", **NAMES}
    said = ", ".join(f"{names[kind]} {value:+.2f}" for kind, value in middle.items())
    return f"Medians of log10 of the truth ratio: {said}."


def relearning(results: Results) -> str:
    names = {"oracle": "oracle", **NAMES}
    ends = {
        kind: estimate([100 * curve[-1] for curve in results.column("relearnt", kind).dropna()])
        for kind in ("oracle", "A", "C", "D wanda")
    }
    said = "; ".join(f"{names[kind]} {level(e)}" for kind, e in ends.items())
    return f"Probability of the other forget answers after the last epoch: {said}."
