"""The figures of the two unlearning chapters. Each takes tables and returns a matplotlib figure; none computes a
result."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from palimpsest.chapters.unlearning_quantised.arms import BASELINES, HEADLINE, SWEEP
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.chapters.unlearning_quantised.judging import difference
from palimpsest.chapters.unlearning_quantised.oeu_claims import excess
from palimpsest.chapters.unlearning_quantised.qmul_claims import by_seed
from palimpsest.figures import COLOURS, SIDES, forest, legend_above, method_colour
from palimpsest.metrics.statistics import estimate

PAIR = ("dot", "norm_f", "norm_r")
NOISY = {"random labels": "random label"}
"""Where a probe names a loss otherwise than rows name its method."""
HIGHLIGHTED = ("Q-MUL", "OEU", "retrain", "original")
"""The two papers' methods and the references."""


def plane(results: Results, at: tuple[str, str] = HEADLINE) -> Figure:
    """Forgetting against retention: FA and RA of every method with 95 % intervals, and Retrain as the target.

    Points are numbered, nearest to Retrain first, because two dozen names do not fit beside them.
    """
    rows = results.rows.query("precision == @at[0] and forget_set == @at[1]")
    methods = rows.groupby("method").gap.mean().sort_values().index
    figure, axis = plt.subplots(figsize=(8.6, 5.2), layout="constrained")
    points = []
    for number, method in enumerate(methods):
        fa, ra = (estimate(results.column(name, method, *at).dropna()) for name in ("FA", "RA"))
        points.append((fa.mean, ra.mean))
        axis.errorbar(
            fa.mean,
            ra.mean,
            xerr=[[fa.mean - fa.low], [fa.high - fa.mean]],
            yerr=[[ra.mean - ra.low], [ra.high - ra.mean]],
            fmt="*" if method == "retrain" else "o",
            markersize=13 if method == "retrain" else 5,
            color=method_colour(method),
            alpha=0.9 if method in HIGHLIGHTED else 0.55,
            elinewidth=0.6,
            label=f"{number}  {method}",
        )
    axis.set(xlabel="FA: accuracy on the forget set, %", ylabel="RA: accuracy on the retain set, %")
    axis.set_title(f"{at[0]}, {at[1]}: the star is where to be")
    for limits, limit in ((axis.get_xlim(), axis.set_xlim), (axis.get_ylim(), axis.set_ylim)):
        limit(max(limits[0], -2), min(limits[1], 102))  # an interval may run beyond what an accuracy can be
    figure.legend(loc="outside right upper", fontsize=7)
    figure.draw_without_rendering()  # the layout decides where points are, and so where their numbers fit
    at_points = axis.transData.transform(points) * 72 / figure.dpi
    for number, (point, offset) in enumerate(zip(points, free_spots(at_points), strict=True)):
        axis.annotate(
            str(number),
            point,
            xytext=offset,
            textcoords="offset points",
            fontsize=7,
            ha="center",
            va="center",
            color=method_colour(methods[number]) if methods[number] in HIGHLIGHTED else "0.25",
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 4, "shrinkB": 2},
        )
    return figure


def free_spots(points: np.ndarray, radii: tuple[float, ...] = (9, 16, 24), room: float = 9) -> np.ndarray:
    """Where to write a label beside each of points [N, 2]: offsets [N, 2], all in typographic points.

    One label after another takes, of 16 directions at each radius, the spot farthest from all points and from the
    labels placed so far; `room` is enough, and among spots with enough the nearest wins.
    """
    angles = np.pi / 4 + np.arange(16) * np.pi / 8  # diagonals first: intervals lie along the axes
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    spots = np.concatenate([radius * ring for radius in radii])
    taken, offsets = [*np.asarray(points, float)], []
    for point in np.asarray(points, float):
        distance = np.linalg.norm((point + spots)[:, None] - np.stack(taken), axis=2).min(1)
        offsets.append(spots[distance.clip(max=room).argmax()])
        taken.append(point + offsets[-1])
    return np.stack(offsets)


def gaps(results: Results, conditions: list[tuple[str, str]] = (HEADLINE,)) -> Figure:
    """Average gap to Retrain of every method, one colour per condition (precision, forget set), best on top."""
    first = results.rows.query("precision == @conditions[0][0] and forget_set == @conditions[0][1]")
    order = first[first.method != "retrain"].groupby("method").gap.mean().sort_values().index
    figure, axis = plt.subplots(figsize=(7.4, 0.12 * len(order) * (len(conditions) + 1) + 1.4))
    for i, at in enumerate(conditions):
        run = results.rows.query("precision == @at[0] and forget_set == @at[1]").method.unique()
        estimates = {m: estimate(results.column("gap", m, *at).dropna()) for m in order if m in run}
        shade = COLOURS[i] if len(conditions) > 1 else method_colour
        forest(axis, estimates, colour=shade, offset=-0.25 * i, label=", ".join(at))
    axis.set(xlabel="average gap to Retrain over FA, RA, TA and MIA, points", title="Left is nearer to Retrain")
    axis.set_xlim(left=0)
    if len(conditions) > 1:
        axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def advantages(results: Results, method: str, others=(*BASELINES, "Q-MUL", "OEU")) -> Figure:
    """Gap of each other method minus gap of `method`, paired within seeds."""
    rows = {o: difference(results, "gap", o, method) for o in others if o != method}
    rows = dict(sorted(rows.items(), key=lambda item: item[1].mean))
    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    forest(axis, rows, colour=method_colour)
    axis.set(xlabel=f"gap of the method minus gap of {method}, points", title=f"Right of zero, {method} is nearer")
    figure.tight_layout()
    return figure


def gradients(results: Results, method: str = "OEU") -> Figure:
    """Angle between g_f and g_r, and the norms of both, pair by pair through `method`, mean and range over seeds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.8))
    rows = results.logged(method)
    dot, norm_f, norm_r = (rows.pivot(index="step", columns="seed", values=n).to_numpy() for n in PAIR)
    angle = np.degrees(np.arccos(np.clip(dot / (norm_f * norm_r), -1, 1)))
    steps = np.arange(1, len(angle) + 1)
    left.plot(steps, angle.mean(1), color=method_colour(method))
    left.fill_between(steps, angle.min(1), angle.max(1), color=method_colour(method), alpha=0.2)
    right.plot(steps, norm_f.mean(1), color=SIDES["forget"], label="forget")
    right.plot(steps, norm_r.mean(1), color=SIDES["retain"], linestyle=":", label="retain")
    left.axhline(90, color="0.35", linewidth=1)
    left.set(xlabel="pair of batches", ylabel="angle of g_f and g_r, degrees", title="Above 90° they conflict")
    right.set(xlabel="pair of batches", ylabel="L2 norm", yscale="log", title="Lengths")
    right.legend(fontsize=8)
    figure.tight_layout()
    return figure


def flows(results: Results, classes, methods=("retrain", "original", "random label", "Q-MUL", "OEU")) -> Figure:
    """Where the forget set's labels go: true class by predicted class, in percent, summed over seeds."""
    size = (2.1 * len(methods) + 1.2, 3.1)
    figure, axes = plt.subplots(1, len(methods), figsize=size, sharey=True, layout="constrained")
    for axis, method in zip(axes, methods, strict=True):
        counts = np.sum(results.column("flow", method).tolist(), axis=0)
        share = 100 * counts / counts.sum(1, keepdims=True)
        seaborn.heatmap(share, ax=axis, cmap="viridis", vmin=0, vmax=100, cbar=False, square=True)
        axis.set_title(method, fontsize=9)
        axis.set_xticks(np.arange(len(classes)) + 0.5, classes, rotation=90, fontsize=6)
        axis.set_xlabel("predicted", fontsize=8)
    axes[0].set_yticks(np.arange(len(classes)) + 0.5, classes, rotation=0, fontsize=6)
    axes[0].set_ylabel("true class", fontsize=8)
    figure.colorbar(axes[0].collections[0], ax=axes, shrink=0.7, label="% of the class")
    return figure


def entropies(results: Results, methods=("original", "random label", "Q-MUL", "OEU")) -> Figure:
    """Histograms of the entropy of predictions on the forget set, each against Retrain's."""
    figure, axes = plt.subplots(1, len(methods), figsize=(2.3 * len(methods), 3), sharex=True, sharey=True)
    bins = np.linspace(0, np.log(10), 16)
    retrain = np.concatenate(results.column("entropies", "retrain").tolist())
    for axis, method in zip(axes, methods, strict=True):
        values = np.concatenate(results.column("entropies", method).tolist())
        weights = np.full(len(retrain), 100 / len(retrain))
        axis.hist(retrain, bins, weights=weights, histtype="step", color="black", label="Retrain")
        weights = np.full(len(values), 100 / len(values))
        axis.hist(values, bins, weights=weights, alpha=0.6, color=method_colour(method), label=method)
        axis.set(title=method, xlabel="entropy, nats")
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("forget samples, %")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    return figure


def first_order(changes: pd.DataFrame) -> Figure:
    """|ΔL_r| against the step size on logarithmic axes, float and W4A4, with guides of slope 1 and 2."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 4), sharey=True)
    styles = {
        ("g_f", "same"): ("g_f, same batch", "s", COLOURS[0]),
        ("g_f orthogonal", "same"): ("g_f⊥, same batch", "o", COLOURS[2]),
        ("g_f orthogonal", "other"): ("g_f⊥, another batch", "^", COLOURS[1]),
        ("momentum", "same"): ("momentum of g_f⊥", "x", COLOURS[4]),
    }
    for axis, precision in zip(axes, ("float", "W4A4"), strict=True):
        rows = changes[changes.precision == precision]
        for (direction, batch), (label, marker, shade) in styles.items():
            here = rows[(rows.direction == direction) & (rows.batch == batch)]
            middle = here.change.abs().groupby(here.step).median()
            axis.plot(middle.index, middle.clip(lower=1e-14), marker, color=shade, label=label, markersize=4)
        x = np.array(sorted(rows.step.unique()))
        for power in (1, 2):
            axis.plot(x, x**power, color="0.6", linewidth=0.8, linestyle="--" if power == 1 else ":")
        axis.set(xscale="log", yscale="log", xlabel="step size η", title=precision, ylim=(1e-13, 1e4))
    axes[0].set_ylabel("|change of the retain loss|, nats")
    axes[0].legend(fontsize=7, loc="upper left")
    figure.tight_layout()
    return figure


def noise(measured: pd.DataFrame) -> Figure:
    """Relative variance of the forget gradient by precision, with 95 % intervals over seeds: over draws of the labels
    alone, and of batches and labels, with random and with similar labels. `measured`: `probes.noise`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.8))
    for axis, column, losses in (
        (left, "label_noise", ("random labels",)),
        (right, "noise", ("random labels", "similar labels", "KL(u, p)")),
    ):
        for i, loss in enumerate(losses):
            cells = [estimate(by_seed(measured, column, precision, loss)) for precision in SWEEP]
            errors = [[e.mean - e.low for e in cells], [e.high - e.mean for e in cells]]
            places = np.arange(len(SWEEP)) + 0.1 * i
            axis.errorbar(
                places,
                [e.mean for e in cells],
                yerr=errors,
                fmt="o",
                capsize=3,
                color=method_colour(NOISY.get(loss, loss)),
                label=loss,
            )
        axis.set_xticks(range(len(SWEEP)), SWEEP)
        axis.set_ylim(bottom=0)
    left.set(ylabel="tr Cov(g) / ‖E g‖²", title="Labels drawn, all of the forget set")
    right.set(title="Labels and batches drawn")
    right.legend(fontsize=8)
    figure.tight_layout()
    return figure


def courses(table: pd.DataFrame) -> Figure:
    """Loss on the whole retain set against entropy on the forget set along runs, a thin line per seed and a thick one
    for the mean over seeds. `table`: `probes.along`."""
    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    for method, rows in table.groupby("method"):
        shade = method_colour(method)
        for _, own in rows.groupby("seed"):
            axis.plot(own.entropy, own.retain_loss, color=shade, alpha=0.25, linewidth=0.7)
        mean = rows.groupby("look")[["entropy", "retain_loss"]].mean()
        axis.plot(mean.entropy, mean.retain_loss, color=shade, linewidth=2, label=method)
    axis.set(xlabel="mean entropy on the forget set, nats", ylabel="loss on the retain set, nats", yscale="log")
    legend_above(axis, title="lower is better preserved", title_fontsize=8)
    figure.tight_layout()
    return figure


def labels(table: pd.DataFrame) -> Figure:
    """Share of the forget set that is given the injected label, minus Retrain's. `table`: "
    "`probes.injected_labels`."""
    figure, axis = plt.subplots(figsize=(7.2, 2.6))
    forest(axis, excess(table), colour=method_colour)
    axis.set(xlabel="forget samples with the injected label, beyond Retrain's, points")
    figure.tight_layout()
    return figure


def contributions(results: Results) -> Figure:
    """w_f G_f and w_r G_r of Q-MUL's steps, in the order they are made, mean over seeds."""
    figure, axis = plt.subplots(figsize=(7.4, 3.6))
    rows = results.logged("Q-MUL")
    mean = rows.groupby("step")[["weighted_forget", "weighted_retain", "weight_f"]].mean()
    for i, side in enumerate(("forget", "retain")):
        here = mean[f"weighted_{side}"].dropna()
        axis.plot(here.index, here, ".", color=SIDES[side], label=("w_f G_f", "w_r G_r")[i])
    for start in mean.index[mean.weight_f.notna()]:
        axis.axvline(start, color="0.7", linewidth=0.8)
    axis.set(
        xlabel="step (lines: the weights are set anew)",
        ylabel="sum of gradient norms, weighted",
        yscale="log",
        title="The weights balance the two at each line",
    )
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def pictures(coordinates: pd.DataFrame, classes) -> Figure:
    """Features of one seed's samples in two principal components, a panel per network; forgotten ones as crosses."""
    names = list(coordinates.network.unique())
    figure, axes = plt.subplots(1, len(names), figsize=(2.4 * len(names), 2.8), sharex=True, sharey=True)
    palette = seaborn.color_palette("tab10", len(classes))
    for axis, name in zip(axes, names, strict=True):
        rows = coordinates[coordinates.network == name]
        for forgotten, marker, size in ((False, ".", 6), (True, "x", 22)):
            part = rows[rows.forgotten == forgotten]
            shades = [palette[c] for c in part.label]
            axis.scatter(
                part.x, part.y, c=shades, marker=marker, s=size, alpha=0.9 if forgotten else 0.35, linewidth=1
            )
        axis.set(title=name, xticks=[], yticks=[])
        axis.title.set_fontsize(9)
    figure.tight_layout()
    return figure
