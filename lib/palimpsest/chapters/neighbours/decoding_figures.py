"""The figure of the decoding part; it computes no result."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from palimpsest import figures
from palimpsest.chapters.neighbours.decoding import Results
from palimpsest.metrics.statistics import estimate


def costs(results: Results) -> Figure:
    """Cost per token of every arm, and of two models that take turns, whose text is another one."""
    figure, axis = plt.subplots(figsize=(7.6, 4.4))
    found = {arm: estimate(results.by_seed(arm, "cost")) for arm in results.lossless.arm.unique()}
    for threshold, part in results.lossy.groupby("threshold"):
        found[f"two models, {threshold:g} bits (another text)"] = estimate(part.groupby("seed").cost.mean())
    figures.forest(axis, found)
    axis.axvline(1, color="0.35", linewidth=1, linestyle=":")
    axis.set(xlabel="cost per token, plain decoding = 1", xlim=(0, None))
    figure.tight_layout()
    return figure
