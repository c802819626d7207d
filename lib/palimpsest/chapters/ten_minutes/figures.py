"""The figures of the page In ten minutes. Each takes what the page computed and returns a matplotlib figure."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from palimpsest import figures
from palimpsest.decoding import Stats
from palimpsest.figures import COLOURS
from palimpsest.metrics.statistics import Estimate


def courses(seen: dict[str, pd.DataFrame], oracle: dict[str, float]) -> Figure:
    """Probabilities of the "forgotten" and the "retained" answers by update, a panel a run, and the oracle's of the
    former."""
    figure, axes = plt.subplots(1, len(seen), figsize=(7.2, 3), sharey=True)
    for axis, (name, course) in zip(axes, seen.items(), strict=True):
        axis.plot(course.index, course.retained, "--", color=COLOURS[0], label="retained")
        axis.plot(course.index, course.forgotten, color=COLOURS[3], label="forgotten")
        axis.axhline(oracle["forgotten"], linestyle=":", color="black", label="forgotten, oracle")
        axis.set(title=name, xlabel="updates", ylim=(-0.03, 1.03))
    axes[0].set_ylabel("probability of an answer")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    return figure


def prices(changes: pd.DataFrame) -> Figure:
    """|Change of the retain loss| against the step's size on logarithmic axes, a line a way, its name at its side."""
    figure, axis = plt.subplots(figsize=(7.2, 3.4))
    for (name, rows), marker, colour in zip(
        changes.groupby("step", sort=False), "so^", (COLOURS[0], COLOURS[2], COLOURS[1]), strict=True
    ):
        axis.plot(rows["size"], rows.change, marker=marker, color=colour, label=name, markersize=4)
    axis.set(xscale="log", yscale="log", xlabel="size of the step", ylabel="change of the retain loss, nats")
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def differences(estimates: dict[str, Estimate]) -> Figure:
    """A row a pair, in points of accuracy."""
    figure, axis = plt.subplots(figsize=(7.2, 2))
    figures.forest(axis, estimates)
    axis.set(xlabel="difference in accuracy, points", ylim=(-0.6, len(estimates) - 0.4))
    figure.tight_layout()
    return figure


def passes(picture: Tensor, decodes: dict[str, Stats]) -> Figure:
    """The picture [28, 28], and the tokens of each pass of the target after its first, a row of bars a decode."""
    figure = plt.figure(figsize=(7.2, 2.8))
    grid = figure.add_gridspec(len(decodes), 2, width_ratios=(1, 2.6))
    shown = figure.add_subplot(grid[:, 0])
    shown.imshow(picture, cmap="gray")
    shown.axis("off")
    longest = max(stats.rounds for stats in decodes.values())
    for row, ((name, stats), colour) in enumerate(zip(decodes.items(), (COLOURS[7], COLOURS[3]), strict=True)):
        axis = figure.add_subplot(grid[row, 1])
        axis.bar(range(1, stats.rounds + 1), [kept + 1 for kept in stats.accepted], color=colour)
        axis.set(title=name, xlim=(0.3, longest + 0.7), ylim=(0, 9.5), yticks=(0, 3, 6, 9), ylabel="tokens")
        axis.grid(axis="x", visible=False)
    axis.set_xlabel("pass of the target")
    figure.tight_layout()
    return figure
