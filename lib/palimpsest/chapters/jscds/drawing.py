"""The idea of JSCDS in one drawing: how far a sample lies from its class centre, by way of their mixture."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from palimpsest import kernels
from palimpsest.figures import COLOURS

CENTRE = (0.1, 0.3, 0.6)
SAMPLES = {"a sample near its centre": (0.15, 0.35, 0.5), "a sample far from it": (0.8, 0.15, 0.05)}


def divergence(p: tuple[float, ...], q: tuple[float, ...]) -> float:
    """J(p, q) in nats."""
    p_logits, q_logits = (torch.tensor([x], dtype=torch.float64).log() for x in (p, q))
    return kernels.jensen_shannon(p_logits, q_logits).item()


def idea() -> Figure:
    """p, q and m as bars, a panel per sample; above each pair what its coordinate adds to J."""
    figure, axes = plt.subplots(1, len(SAMPLES), figsize=(8.4, 3.2), sharey=True, layout="constrained")
    q = np.array(CENTRE)
    places = np.arange(len(q))
    for axis, (name, sample) in zip(axes, SAMPLES.items(), strict=True):
        p = np.array(sample)
        m = (p + q) / 2
        added = 0.5 * (p * np.log(p / m) + q * np.log(q / m))
        axis.bar(places - 0.2, p, 0.36, color=COLOURS[0], label="p, the sample")
        axis.bar(places + 0.2, q, 0.36, color=COLOURS[7], label="q, the class centre")
        axis.hlines(m, places - 0.42, places + 0.42, color="black", label="m, their mean")
        for x, part, top in zip(places, added, np.maximum(p, q), strict=True):
            axis.text(x, top + 0.02, f"+{part:.3f}", ha="center", fontsize=9)
        axis.set(title=f"{name}: J = {divergence(sample, CENTRE):.3f} nats", xticks=places, ylim=(0, 1))
        axis.set_xticklabels([f"coordinate {i + 1}" for i in places])
        axis.grid(axis="x", visible=False)
    axes[0].set_ylabel("probability")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False
    )
    return figure
