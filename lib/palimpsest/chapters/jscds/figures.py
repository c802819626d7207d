"""The figures of the JSCDS chapter. Each takes tables and returns a matplotlib figure; none computes a result."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn
import torch
from matplotlib.figure import Figure

from palimpsest.chapters.jscds.claims import against_full, against_methods, floors
from palimpsest.chapters.jscds.cohort import CLEAN, NOISY
from palimpsest.chapters.jscds.experiment import Results
from palimpsest.figures import COLOURS, forest, method_colour
from palimpsest.metrics.statistics import Estimate, estimate


def extremes(images: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor, classes, count: int = 8) -> Figure:
    """Per class, the `count` images nearest to their centre and the `count` farthest from it."""
    figure, axes = plt.subplots(len(classes), 2 * count, figsize=(8.4, 5.4))
    for c, (row, name) in enumerate(zip(axes, classes, strict=True)):
        members = (labels == c).nonzero().flatten()
        order = members[scores[members].argsort(stable=True)]
        for axis, index in zip(row, [*order[:count], *order[-count:]], strict=True):
            axis.imshow(images[index], cmap="gray_r")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    axes[0][count // 2 - 1].set_title("smallest J: near the centre", fontsize=9, loc="left", x=-1.0)
    axes[0][count + count // 2 - 1].set_title("largest J: far from it", fontsize=9, loc="left", x=-1.0)
    figure.subplots_adjust(left=0.13, right=0.99, top=0.94, bottom=0.01, wspace=0.06, hspace=0.06)
    return figure


def distribution(scores: torch.Tensor, labels: torch.Tensor, wrong: torch.Tensor, chosen: int, name: str) -> Figure:
    """J within one class, right and wrong labels apart, with its mean and the band that the text's rule keeps."""
    members = (labels == chosen).nonzero().flatten()
    j = scores[members]
    distance = (j - j.mean()).abs()
    reach = distance.sort().values[int(0.5 * len(j) + 0.5) - 1].item()
    table = pd.DataFrame({"J": j, "label": ["wrong" if w else "right" for w in wrong[members]]})
    figure, axis = plt.subplots()
    seaborn.histplot(table, x="J", hue="label", hue_order=["right", "wrong"], multiple="stack", bins=30, ax=axis)
    axis.axvspan(max(0, j.mean().item() - reach), j.mean().item() + reach, color=COLOURS[2], alpha=0.25, zorder=0)
    axis.axvline(j.mean().item(), color=COLOURS[2], linestyle="--")
    axis.set(xlabel="J, nats", ylabel="samples", title=f"Labelled '{name}': the kept half lies around the mean")
    return figure


def fractions(results: Results) -> Figure:
    """Test accuracy against the fraction kept, clean and noisy, with 95 % intervals over seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.8), sharey=True)
    for axis, condition in zip(axes, (CLEAN.name, NOISY.name), strict=True):
        for i, method in enumerate(("jscds", "random")):
            arms = {f: estimate(results.accuracies(method, f, condition)) for f in (0.3, 0.5, 0.7)}
            means = [e.mean for e in arms.values()]
            errors = [[e.mean - e.low for e in arms.values()], [e.high - e.mean for e in arms.values()]]
            shifted = [100 * f + 0.8 * (i - 0.5) for f in arms]
            axis.errorbar(
                shifted, means, yerr=errors, marker="os"[i], capsize=3, color=method_colour(method), label=method
            )
        full = estimate(results.accuracies("full", 1.0, condition))
        axis.axhspan(full.low, full.high, color="0.6", alpha=0.35, label="full set")
        axis.set(xlabel="kept, % of the training data", title=condition, xticks=[30, 50, 70])
    axes[0].set_ylabel("test accuracy, %")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    return figure


def differences(results: Results) -> Figure:
    """JSCDS at 50 % and 70 % minus the full set, in points, and the full set minus itself, by condition."""
    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    arms = [against_full(results, fraction) for fraction in (0.5, 0.7)]
    where = {at: f"{at[0]}, equal {at[1]}" for at in arms[0]}
    floor = {
        f"{c}: full again": floors(results, c)["full minus full again"] for c in dict.fromkeys(c for c, _ in where)
    }
    forest(axis, {where[at]: e for at, e in arms[0].items()} | floor, label="50 % kept; full minus full again")
    _squares(axis, {where[at]: e for at, e in arms[1].items()}, [*where.values(), *floor], "70 % kept")
    axis.set(xlabel="JSCDS minus full set, points of test accuracy", title="Right of zero, less data wins")
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def _squares(axis, rows: dict[str, Estimate], drawn: list[str], label: str) -> None:
    """Estimates just under those that `forest` has `drawn` under the same names, of which some may have none."""
    for i, (name, e) in enumerate(rows.items()):
        axis.errorbar(
            e.mean,
            len(drawn) - 1 - drawn.index(name) - 0.25,
            xerr=[[e.mean - e.low], [e.high - e.mean]],
            fmt="s",
            color=COLOURS[1],
            capsize=3,
            label=label if i == 0 else None,
        )


def rivals(results: Results) -> Figure:
    """JSCDS minus every other method at 50 %, clean and with 20 % wrong labels, and the placebo pair."""
    figure, axis = plt.subplots(figsize=(7.2, 5.6))
    placebo, rows = "random minus random again", []
    for condition in (CLEAN.name, NOISY.name):
        rows.append(against_methods(results, condition) | {placebo: floors(results, condition)[placebo]})
    forest(axis, rows[0], colour=COLOURS[0], label=CLEAN.name)
    _squares(axis, rows[1], list(rows[0]), NOISY.name)
    axis.set(xlabel="JSCDS minus the method, points of test accuracy", title="Right of zero, JSCDS wins")
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def wrong_kept(results: Results) -> Figure:
    """Share of wrong labels among the kept half, by method, 20 % being wrong before selection."""
    table = results.rows.query("condition == @NOISY.name and fraction == 0.5 and matched == 'epochs'")
    table = table.drop_duplicates(["method", "seed"])  # a subset is the same at every step size
    shares = {m: estimate(100 * g.wrong_kept) for m, g in table.groupby("method")}
    shares = dict(sorted(shares.items(), key=lambda item: item[1].mean))
    figure, axis = plt.subplots(figsize=(7.2, 4.4))
    forest(axis, shares, colour=method_colour)
    axis.axvline(100 * NOISY.rate, color=COLOURS[3], linestyle="--")
    axis.set(xlabel="wrong labels among the kept, %", title="Left of the dashed line, selection cleans the labels")
    axis.set_xlim(left=0)
    figure.tight_layout()
    return figure


def tuning(results: Results) -> pd.DataFrame:
    """Every arm at every step size: mean validation accuracy and its standard deviation over replications, in
    percent, and how many replications chose the value."""
    keys = ["condition", "method", "fraction", "matched"]
    rows = []
    for (condition, method, fraction, matched), group in results.rows.groupby(keys, sort=False):
        row = {"condition": condition, "arm": f"{method}, {100 * fraction:.0f} %, equal {matched}"}
        chosen = results.chosen(method, fraction, condition, matched)
        for lr, at in group.groupby("lr"):
            mean, sd = 100 * at.validation.mean(), 100 * at.validation.std()
            row[f"step size {lr:g}"] = f"{mean:.1f} ± {sd:.1f}, chosen by {int((chosen == lr).sum())}"
        rows.append(row | {"diverged": int(group.diverged.sum())})
    return pd.DataFrame(rows)


def work(costs: pd.DataFrame) -> Figure:
    """Multiply-adds by stage, in units of one training on all the data."""
    table = costs.set_index("method")
    unit = table.total["full"]
    table = (table[["scorer", "scoring", "final"]] / unit).sort_values("scorer")
    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    left = 0
    for i, (stage, values) in enumerate(table.items()):
        axis.barh(table.index, values, left=left, color=COLOURS[i], label=stage)
        left = left + values
    axis.axvline(1, color="0.35", linewidth=1)
    axis.set(
        xlabel="multiply-adds, in trainings on all the data", title="Most of the cost is the network that scores"
    )
    axis.legend(fontsize=8)
    axis.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def seconds(stages: pd.DataFrame) -> Figure:
    """Recorded seconds by stage, the training stages first, on a logarithmic axis."""
    table = stages.assign(
        name=[m if s == "scoring" else f"{s} ({m})" for m, s in zip(stages.method, stages.stage, strict=True)]
    )
    table = table.sort_values("p50_s")
    figure, axis = plt.subplots(figsize=(7.2, 4.6))
    for i, scoring in enumerate((True, False)):
        rows = table[(table.stage == "scoring") == scoring]
        whiskers = [rows.p50_s - rows.p20_s, rows.p80_s - rows.p50_s]
        label = "scoring" if scoring else "training"
        axis.errorbar(rows.p50_s, rows.name, xerr=whiskers, fmt="os"[i], color=COLOURS[i], label=label)
    first = table.iloc[0]
    axis.set(xscale="log", xlabel=f"seconds, {first.samples} samples, one thread", title=f"Recorded {first.date}")
    axis.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    return figure


def bench_table(bench: pd.DataFrame) -> pd.DataFrame:
    """The recorded benchmark of a kernel: one row per shape and direction, how many times faster than the naive
    formula each peer is, and the peak memory of ours in MB."""
    rows = bench[bench.dtype == "float32"]
    table = rows.pivot_table("speed_vs_eager", ["shape", "direction"], "peer", sort=False)
    table["peak MB"] = rows[rows.peer == "palimpsest"].set_index(["shape", "direction"]).peak_mb
    return table.round(2).reset_index().rename_axis(columns=None)
