"""The idea of SAU in one drawing: what a mask takes from a step, and what redistribution gives back."""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from palimpsest.unlearning.language import redistribution
from palimpsest.unlearning.language.importance import normalised

GRADIENT = torch.tensor(
    [[1.0, -0.6, 0.8, 0.2, -0.5], [-0.4, 0.9, 0.3, -0.7, 0.6], [0.5, 0.3, -1.0, 0.6, 0.2]], dtype=torch.float64
)
SCORES = torch.tensor(
    [[0.9, 0.2, 0.5, 0.7, 0.1], [0.3, 0.6, 0.8, 0.2, 0.4], [0.7, 0.5, 0.2, 0.3, 0.6]], dtype=torch.float64
)
KEPT = 3
"""Weights that a row keeps: those of the largest score, as Wanda compares them."""


def forms() -> tuple[Tensor, dict[str, Tensor]]:
    """The mask [rows, columns], and a gradient's step in three forms of that shape: as if nothing were pruned,
    masked, and redistributed."""
    kept = torch.zeros_like(SCORES, dtype=torch.bool).scatter(1, SCORES.topk(KEPT).indices, True)
    factors = redistribution(GRADIENT, kept, normalised(SCORES, kept), c_max=10.0, eps=1e-12)
    masked = GRADIENT * kept
    return kept, {"step of a dense model": GRADIENT, "masked": masked, "redistributed": factors * masked}


def progress(step: Tensor) -> Tensor:
    """First-order progress of each row along `step`, as a share of the dense step's: [rows]."""
    return (step * GRADIENT).sum(1) / GRADIENT.square().sum(1)


def idea() -> Figure:
    """Three matrices of one step, pruned weights hatched; beside each row what is left of its progress."""
    kept, steps = forms()
    figure, axes = plt.subplots(1, len(steps), figsize=(9.4, 2.6), layout="constrained")
    rows, columns = kept.shape
    for axis, (name, step) in zip(axes, steps.items(), strict=True):
        axis.imshow(step.numpy(), cmap="RdBu", vmin=-2, vmax=2)
        for i in range(rows):
            for j in range(columns):
                if name != "step of a dense model" and not kept[i, j]:
                    axis.add_patch(
                        Rectangle(
                            (j - 0.5, i - 0.5), 1, 1, facecolor="0.93", edgecolor="0.6", hatch="///", linewidth=0
                        )
                    )
                else:
                    shade = "white" if step[i, j].abs() > 1.2 else "black"
                    axis.text(j, i, f"{step[i, j]:+.1f}", ha="center", va="center", fontsize=9, color=shade)
            axis.text(columns - 0.35, i, f"{progress(step)[i]:.0%}", va="center", fontsize=10, fontweight="bold")
        axis.text(columns - 0.35, -0.75, "progress", fontsize=8)
        axis.set(title=name, xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    return figure
