"""The figures of the SAU chapter. Each takes tables and returns a matplotlib figure; none computes a result."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from palimpsest.chapters.sau.arms import DENSE
from palimpsest.chapters.sau.claims import NAMES, dense, gap, resurfaced
from palimpsest.chapters.sau.experiment import Results
from palimpsest.chapters.sau.measures import BAR
from palimpsest.chapters.sau.profiles import JUDGED_AT, MAIN, SPARSITIES
from palimpsest.chapters.sau.search import alike, chosen
from palimpsest.figures import COLOURS, legend_above, method_colour
from palimpsest.metrics.statistics import Estimate, estimate

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
        color=method_colour(kind),
        capsize=2,
        linewidth=1.2,
        markersize=4,
        label=label or LABELS[kind],
    )


def training(losses: list[float]) -> Figure:
    """Loss by epoch."""
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    axis.plot(range(1, len(losses) + 1), losses, "o-", color=method_colour("target"), markersize=4, linewidth=1.2)
    axis.set(xlabel="epoch", ylabel="loss of an answer token, nats", yscale="log")
    figure.tight_layout()
    return figure


def by_sparsity(results: Results) -> Figure:
    """Gap closed against sparsity, arms A to F; every arm taken at the same validation retention."""
    figure, axis = plt.subplots(figsize=(7.6, 4.4))
    for i, kind in enumerate(("A", "B", "C", "D wanda", "F", "E")):
        met = SPARSITIES if kind in ("C", "D wanda", "E") else JUDGED_AT[1:]
        estimates = [estimate(gap(results, kind, sparsity=s)) for s in met]
        _line(axis, [float(s) for s in met], estimates, kind, (i - 2.5) * DODGE)
    start = estimate(dense(results))
    _line(axis, [0.0], [start], "A", label="dense")
    axis.axhline(start.mean, color=method_colour("A"), linewidth=0.8, linestyle=":")
    axis.axhline(100, color="black", linewidth=0.8)
    axis.text(0.0, 101, "oracle", fontsize=8, va="bottom")
    axis.set(
        xlabel="pruned share of each matrix (E: share that may not move)",
        ylabel=f"gap closed at {100 * BAR:.0f} % of retention, %",
        xticks=[0, 0.5, 0.7],
    )
    legend_above(axis)
    figure.tight_layout()
    return figure


def courses(results: Results, sparsity: str = "0.5") -> Figure:
    """Every run's course: forget probability against validation retention, look by look."""
    figure, axes = plt.subplots(1, 4, figsize=(9.4, 3.2), sharex=True, sharey=True)
    panels = {"A": ("none", "0"), "C": ("wanda", sparsity), "D wanda": ("wanda", sparsity), "F": ("wanda", sparsity)}
    for axis, (kind, recipe) in zip(axes, panels.items(), strict=True):
        for course in results.column("course", kind, *recipe):
            axis.plot(
                [100 * row["kept"] for row in course],
                [row["forget"] for row in course],
                "o-",
                color=method_colour(kind),
                markersize=3,
                linewidth=1,
            )
        axis.axvline(100 * BAR, color="0.3", linewidth=0.8, linestyle="--")
        axis.set(title="dense" if kind == "A" else LABELS[kind], xlabel="retention kept, %")
    axes[0].invert_xaxis()
    axes[0].set_ylabel("probability of forget answers")
    figure.tight_layout()
    return figure


def search(results: Results) -> Figure:
    """What the search saw of the arms that differ in what moves: gap closed against the step size, at the weight of
    the retain loss that was chosen; each tuning seed, and their mean."""
    kinds = {"A": DENSE, "B": JUDGED_AT, "C": JUDGED_AT, "D wanda": JUDGED_AT, "F": JUDGED_AT, "C, again": JUDGED_AT}
    figure, axes = plt.subplots(2, 3, figsize=(9.4, 5.2), sharex=True, sharey=True)
    values = chosen(results.search)
    for axis, (kind, recipe) in zip(axes.flat, kinds.items(), strict=True):
        lr, alpha = values[MAIN, kind, *recipe]
        pruner, sparsity = recipe
        part = alike(results.search, loss=MAIN, kind=kind, pruner=pruner, sparsity=sparsity, alpha=alpha)
        by = part.pivot_table("gap closed", "lr", "seed") * 100
        colour = method_colour(kind)
        axis.plot(by.index, by.to_numpy(), "o", color=colour, markersize=3, alpha=0.5)
        axis.plot(by.index, by.mean(axis=1), "-", color=colour, linewidth=1.4)
        axis.axvline(lr, color="0.3", linewidth=0.8, linestyle="--")
        axis.set(title="dense" if kind == "A" else LABELS[kind], xscale="log")
    for axis in axes[-1]:
        axis.set_xlabel("peak step size")
    for axis in axes[:, 0]:
        axis.set_ylabel("gap closed, %")
    figure.tight_layout()
    return figure


def steps(rows: pd.DataFrame) -> Figure:
    """Rows of `probes.steps`: what masking and redistribution make of a step."""
    names = {"length": "length", "cosine": "cosine", "progress": "first-order progress"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.6), width_ratios=(3, 2))
    forms = {
        "masked": method_colour("C"),
        "redistributed": method_colour("D wanda"),
        "masked, as long": method_colour("F"),
    }
    shares = sorted(rows.sparsity.unique())
    for i, (form, colour) in enumerate(forms.items()):
        for j, sparsity in enumerate(shares):
            part = rows[rows.step.eq(form) & rows.sparsity.eq(sparsity)]
            found = [estimate(part[name]) for name in names]
            places = np.arange(len(names)) + 0.14 * (2 * i - 2 + j)
            errors = [[e.mean - e.low for e in found], [e.high - e.mean for e in found]]
            label = form if j == 0 else ""
            style = {"fmt": "os"[j], "color": colour, "capsize": 2, "markersize": 5}
            left.errorbar(places, [e.mean for e in found], yerr=errors, label=label, **style)
            right.plot(part.forget.mean(), part.retain.mean(), "os"[j], color=colour, markersize=7)
    whole = rows[rows.step.eq("unmasked")].groupby("sparsity")[["forget", "retain"]].mean()
    right.plot(whole.forget, whole.retain, "x", color="black", label="unmasked")
    left.axhline(1, color="0.35", linewidth=0.8)
    left.set_xticks(range(len(names)), names.values())
    left.set_ylabel("of the unmasked step's")
    legend_above(left, title=f"circle {shares[0]}, square {shares[-1]} pruned", title_fontsize=8)
    right.set(xlabel="rise of the forget loss, nats a token", ylabel="rise of the loss of what is kept")
    legend_above(right)
    figure.tight_layout()
    return figure


def truth_ratios(results: Results) -> Figure:
    """Distribution functions of the truth ratio on the forget questions, all seeds together."""
    figure, axis = plt.subplots(figsize=(6.8, 4.0))
    for kind in ("target", "oracle", "A", "B", "C", "D wanda"):
        values = np.concatenate([np.array(v) for v in results.column("truth_ratio", kind).dropna()])
        seaborn.ecdfplot(x=np.log10(values), ax=axis, color=method_colour(kind), label=LABELS[kind])
    axis.axvline(0, color="0.6", linewidth=0.8)
    axis.set(xlabel="log10 of the truth ratio (right of 0: wrong answers seem likelier)", ylabel="share of questions")
    legend_above(axis)
    figure.tight_layout()
    return figure


def resurfacing(results: Results) -> Figure:
    """U→P: what pruning gives back; and the probability itself beside target and oracle pruned alike."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8))
    shares = [0.0, *(float(s) for s in SPARSITIES)]
    recipes = [("wanda", s) for s in SPARSITIES]
    for kind, name in (("A", "unlearned, then pruned"), ("oracle", "oracle, pruned alike")):
        columns = [results.column("forget", kind, *DENSE)]
        columns += [results.column("forget", f"{kind} bare", *recipe) for recipe in recipes]
        _line(left, shares, [estimate(c) for c in columns], kind, label=name)
    left.set(xlabel="pruned share (Wanda), not recovered", ylabel="probability of forget answers", xticks=shares)
    legend_above(left, 2)
    rows = [(" ".join(recipe), resurfaced(results, *recipe)) for recipe in results.pruned]
    rows.append((f"{' '.join(JUDGED_AT)}, recovered", resurfaced(results, *JUDGED_AT, "A")))
    for i, (_, values) in enumerate(rows):
        e = estimate(values)
        right.errorbar(
            e.mean, -i, xerr=[[e.mean - e.low], [e.high - e.mean]], fmt="o", color=method_colour("A"), capsize=3
        )
    right.axvline(0, color="0.35", linewidth=1)
    right.set_yticks([-i for i in range(len(rows))], [name for name, _ in rows])
    right.set(xlabel="given back by pruning, beyond the oracle's, %")
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
    legend_above(axis, title="pruned share")
    figure.tight_layout()
    return figure


def relearning(results: Results) -> Figure:
    """The other forget answers while a tenth of them is learnt again."""
    figure, axis = plt.subplots(figsize=(6.4, 3.8))
    for kind in ("oracle", "A", "B", "C", "D wanda", "F"):
        curves = np.array([curve for curve in results.column("relearnt", kind).dropna()])
        _line(axis, list(range(curves.shape[1])), [estimate(c) for c in curves.T], kind)
    axis.set(xlabel="epochs on a tenth of the forget set", ylabel="probability of the other forget answers")
    legend_above(axis)
    figure.tight_layout()
    return figure
