"""The figures of the SAU chapter. Each takes tables and returns a matplotlib figure; none computes a result."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from palimpsest.chapters.sau.arms import DENSE
from palimpsest.chapters.sau.claims import NAMES, RECIPES, dense, gap, resurfaced
from palimpsest.chapters.sau.experiment import Results
from palimpsest.chapters.sau.measures import BAR
from palimpsest.chapters.sau.profiles import SPARSITIES
from palimpsest.chapters.sau.tables import AHEAD, GAP
from palimpsest.figures import COLOURS
from palimpsest.metrics.statistics import Estimate, estimate

COLOUR = {
    "A": COLOURS[0],
    "B": COLOURS[1],
    "C": COLOURS[4],
    "D wanda": COLOURS[2],
    "E": COLOURS[7],
    "F": COLOURS[3],
    "target": "0.5",
    "oracle": "black",
}
"""An arm keeps its colour through the chapter."""
LABELS = {**NAMES, "E": "dense, random share moves", "target": "target", "oracle": "oracle"}
DODGE = 0.012
"""Sparsity by which arms are drawn apart, so that intervals do not cover each other."""


def _line(
    axis, shares: list[float], estimates: list[Estimate], kind: str, offset: float = 0.0, label: str = ""
) -> None:
    means = np.array([e.mean for e in estimates])
    errors = [[e.mean - e.low for e in estimates], [e.high - e.mean for e in estimates]]
    axis.errorbar(
        np.array(shares) + offset,
        means,
        yerr=errors,
        fmt="o-",
        color=COLOUR[kind],
        capsize=2,
        linewidth=1.2,
        markersize=4,
        label=label or LABELS[kind],
    )


def training(losses: list[float]) -> Figure:
    """Loss by epoch."""
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    axis.plot(range(1, len(losses) + 1), losses, "o-", color=COLOUR["target"], markersize=4, linewidth=1.2)
    axis.set(xlabel="epoch", ylabel="loss of an answer token, nats", yscale="log")
    figure.tight_layout()
    return figure


def by_sparsity(results: Results) -> Figure:
    """Gap closed against sparsity, arms A to F; every arm stopped at the same validation retention."""
    figure, axis = plt.subplots(figsize=(7.6, 4.4))
    for i, kind in enumerate(("A", "B", "C", "D wanda", "F", "E")):
        met = ("0.3", *SPARSITIES) if kind in ("A", "C", "D wanda") else SPARSITIES
        estimates = [estimate(gap(results, kind, sparsity=s)) for s in met]
        _line(axis, [float(s) for s in met], estimates, kind, (i - 2.5) * DODGE)
    start = estimate(dense(results))
    _line(axis, [0.0], [start], "A", label="dense")
    axis.axhline(start.mean, color=COLOUR["A"], linewidth=0.8, linestyle=":")
    axis.axhline(100, color="black", linewidth=0.8)
    axis.text(0.0, 101, "oracle", fontsize=8, va="bottom")
    axis.set(
        xlabel="pruned share of each matrix (E: share that may not move)",
        ylabel=f"gap closed at {100 * BAR:.0f} % of retention, %",
        xticks=[0, 0.3, 0.5, 0.7],
    )
    axis.legend(fontsize=8, ncols=2)
    figure.tight_layout()
    return figure


def courses(results: Results, sparsity: str = "0.5") -> Figure:
    """Every run's course: forget probability against validation retention, epoch by epoch."""
    figure, axes = plt.subplots(1, 4, figsize=(9.4, 3.2), sharex=True, sharey=True)
    panels = {"A": ("none", "0"), "C": ("wanda", sparsity), "D wanda": ("wanda", sparsity), "F": ("wanda", sparsity)}
    for axis, (kind, recipe) in zip(axes, panels.items(), strict=True):
        for course in results.column("course", kind, *recipe):
            axis.plot(
                [100 * row["kept"] for row in course],
                [row["forget"] for row in course],
                "o-",
                color=COLOUR[kind],
                markersize=3,
                linewidth=1,
            )
        axis.axvline(100 * BAR, color="0.3", linewidth=0.8, linestyle="--")
        axis.set(title="dense" if kind == "A" else LABELS[kind], xlabel="retention kept, %")
    axes[0].invert_xaxis()
    axes[0].set_ylabel("probability of forget answers")
    figure.tight_layout()
    return figure


def truth_ratios(results: Results) -> Figure:
    """Distribution functions of the truth ratio on the forget questions, all seeds together."""
    figure, axis = plt.subplots(figsize=(6.8, 4.0))
    for kind in ("target", "oracle", "A", "B", "C", "D wanda"):
        values = np.concatenate([np.array(v) for v in results.column("truth_ratio", kind)])
        seaborn.ecdfplot(x=np.log10(values), ax=axis, color=COLOUR[kind], label=LABELS[kind])
    axis.axvline(0, color="0.6", linewidth=0.8)
    axis.set(xlabel="log10 of the truth ratio (right of 0: wrong answers seem likelier)", ylabel="share of questions")
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def resurfacing(results: Results) -> Figure:
    """U→P: what pruning gives back; and the probability itself beside target and oracle pruned alike."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8))
    shares = [0.0, 0.3, 0.5, 0.7]
    recipes = [DENSE, *(("wanda", str(s)) for s in shares[1:])]
    for kind in ("target", "A", "oracle"):
        columns = [results.column("forget", kind, *recipe) for recipe in recipes]
        _line(
            left, shares, [estimate(c) for c in columns], kind, label="unlearned, then pruned" if kind == "A" else ""
        )
    left.set(xlabel="pruned share (Wanda)", ylabel="probability of forget answers", xticks=shares)
    left.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3)
    estimates = [estimate(resurfaced(results, *recipe)) for recipe in RECIPES]
    for i, e in enumerate(estimates):
        right.errorbar(e.mean, -i, xerr=[[e.mean - e.low], [e.high - e.mean]], fmt="o", color=COLOUR["A"], capsize=3)
    right.axvline(0, color="0.35", linewidth=1)
    right.set_yticks([-i for i in range(len(RECIPES))], [" ".join(recipe) for recipe in RECIPES])
    right.set(xlabel="given back by pruning, beyond the oracle's, %")
    figure.tight_layout()
    return figure


def recorded(arms: pd.DataFrame) -> Figure:
    """A table of `tables.arms`: gap closed, and how far each arm is ahead of masked updates."""
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 4.4), sharey=True, width_ratios=(3, 2))
    names = arms.pruning + ": " + arms["update"]
    places = {name: -i for i, name in enumerate(names.unique())}
    style = {"fmt": "o", "capsize": 2, "markersize": 4}
    for i, (loss, part) in enumerate(arms.groupby("loss", sort=False)):
        rows = names[part.index].map(places) - 0.3 * i
        for axis, (value, low, high) in zip(axes, (GAP, AHEAD), strict=True):
            errors = [part[value] - part[low], part[high] - part[value]]
            axis.errorbar(part[value], rows, xerr=errors, color=COLOURS[i], label=loss, **style)
    axes[1].axvline(0, color="0.35", linewidth=1)
    axes[0].set_yticks(list(places.values()), list(places))
    axes[0].set(xlabel="gap closed, %")
    axes[1].set(xlabel="ahead of masked, points")
    axes[0].legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)
    figure.tight_layout()
    return figure


def lost_gradient(rows: pd.DataFrame) -> Figure:
    """Share of the forget gradient's squared norm that falls on pruned weights, by layer and sparsity."""
    figure, axis = plt.subplots(figsize=(6.8, 3.8))
    for i, (sparsity, part) in enumerate(rows.groupby("sparsity")):
        by_layer = part.groupby(["layer", "seed"]).share.mean().unstack("seed")
        estimates = [estimate(100 * values) for values in by_layer.to_numpy()]
        means = [e.mean for e in estimates]
        errors = [[e.mean - e.low for e in estimates], [e.high - e.mean for e in estimates]]
        axis.errorbar(by_layer.index, means, yerr=errors, fmt="o-", color=COLOURS[i], capsize=3, label=sparsity)
        axis.axhline(100 * part.expected.mean(), color=COLOURS[i], linewidth=0.8, linestyle=":")
    axis.set(xlabel="layer", ylabel="forget gradient on pruned weights, %", xticks=sorted(rows.layer.unique()))
    axis.legend(title="pruned share", fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3)
    figure.tight_layout()
    return figure


def relearning(results: Results) -> Figure:
    """The other forget answers while a tenth of them is learnt again."""
    figure, axis = plt.subplots(figsize=(6.4, 3.8))
    for kind in ("oracle", "A", "B", "C", "D wanda", "F"):
        curves = np.array([curve for curve in results.column("relearnt", kind)])
        _line(axis, list(range(curves.shape[1])), [estimate(c) for c in curves.T], kind)
    axis.set(xlabel="epochs on a tenth of the forget set", ylabel="probability of the other forget answers")
    axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3)
    figure.tight_layout()
    return figure
