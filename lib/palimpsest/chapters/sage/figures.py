"""The figures of the SAGE chapter. Each takes tables and returns a matplotlib figure; none computes a result."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from palimpsest import figures, ledger
from palimpsest.chapters.sage import measures
from palimpsest.chapters.sage.arms import PRUNING, READINGS, SWITCHES
from palimpsest.chapters.sage.claims import NAMES, ahead, left_by, speed, taus
from palimpsest.chapters.sage.requests import CANDIDATES
from palimpsest.chapters.sage.results import Results, size
from palimpsest.figures import COLOURS, legend_above, method_colour
from palimpsest.metrics.statistics import estimate

STAGES = {"verify": COLOURS[0], "draft": COLOURS[1], "tree": COLOURS[3], "rest": COLOURS[7]}


def lemma(results: Results, count: int = 500) -> Figure:
    """Largest probability against alpha: drafts of this pair, random distributions, and the two bounds."""
    figure, axis = plt.subplots()
    generator = np.random.default_rng(0)
    sharp = generator.dirichlet(np.ones(CANDIDATES), count) ** generator.uniform(0.2, 6, (count, 1))
    # Two or more equal tokens and nothing else are where the statement fails most.
    flat = np.array([[1 / m] * m + [1e-12] * (CANDIDATES - m) for m in range(1, CANDIDATES + 1)])
    for table, style in (
        (sharp, {"color": "0.75", "s": 3, "label": "random distributions"}),
        (flat, {"color": "black", "s": 30, "marker": "x", "label": "m equal tokens"}),
    ):
        p = table / table.sum(1, keepdims=True)
        p = np.maximum(p, 1e-300)
        axis.scatter(1 + (p * np.log(p)).sum(1) / np.log(CANDIDATES), p.max(1), **style)
    drafts = results.held[results.held.pair == "vision"].iloc[::50]
    axis.scatter(drafts.alpha, drafts["first"], s=4, color=COLOURS[0], label="this drafter's distributions")
    alpha = np.linspace(0, 1, 100)
    axis.plot(alpha, (1 + alpha * (CANDIDATES - 1)) / CANDIDATES, color=COLOURS[3], label="Lemma 4.3 as stated")
    axis.plot(alpha, CANDIDATES ** (alpha - 1), color=COLOURS[2], label="$k^{\\alpha-1}$")
    axis.set(xlabel="confidence α", ylabel="largest probability $p_1$")
    axis.legend(fontsize="small", markerscale=2)
    return figure


def strengths(results: Results) -> dict[str, tuple[str, str]]:
    """By pair its colour and its name, the share of tokens that the drafter guesses; the surest first."""
    agreement = sorted(results.agreement.items(), key=lambda entry: -entry[1])
    return {pair: (COLOURS[i], f"{share:.0%}") for i, (pair, share) in enumerate(agreement)}


def _line(axis, x, found, **style) -> None:
    errors = [[e.mean - e.low for e in found], [e.high - e.mean for e in found]]
    axis.errorbar(x, [e.mean for e in found], yerr=errors, capsize=2, **style)


def signal(results: Results) -> Figure:
    """Left: how often the drafter's likeliest token is right, by confidence. Right: rank correlation of confidence
    with the accepted length, of this round's tree and of the next."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    for place, (pair, (colour, name)) in enumerate(strengths(results).items()):
        table = measures.reliability(results, pair)
        table = table[table.n >= 20]
        left.plot(table.alpha, table.hit, "o-", color=colour, markersize=4, label=name)
        rounds = measures.rounds(results, measures.named("static", pair))
        found = [estimate(measures.correlation(rounds, column)) for column in ("alpha", "before")]
        _line(right, np.arange(2) + 0.08 * (place - 2), found, fmt="o", color=colour)
    left.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    left.set(xlabel="confidence α at a token", ylabel="drafter's likeliest token is right", ylim=(0, 1.03))
    left.legend(fontsize="small", title="guessed rightly")
    right.axhline(0, color="0.35", linewidth=1)
    right.set_xticks([0, 1], ["α at this root", "α at the root before"])
    right.set(ylabel="rank correlation with accepted drafts", xlim=(-0.5, 1.5))
    figure.tight_layout()
    return figure


def memory(results: Results) -> Figure:
    """Autocorrelation of alpha by lag, in SAGE's rounds and in tokens, minus its mean over random orders."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    for axis, unit in zip(axes, ("round", "token"), strict=True):
        for pair, (colour, name) in strengths(results).items():
            table = measures.memories(results, unit, pair)
            table = table.assign(above=table.memory - table.null)
            lags = [(lag, estimate(part.above)) for lag, part in table.groupby("lag") if len(part) > 1]
            _line(
                axis, [lag for lag, _ in lags], [e for _, e in lags], fmt="o-", markersize=4, color=colour, label=name
            )
        axis.axhline(0, color="0.35", linewidth=1)
        axis.set(xlabel=f"lag in {unit}s")
    axes[0].set(ylabel="correlation of α, above random order")
    axes[1].legend(fontsize="small", title="guessed rightly")
    figure.tight_layout()
    return figure


POLICY = {"static": "static tree, fitted", "chain": "chain", "sage": "SAGE as stated", "sage, tuned": "SAGE, tuned"}
ADAPTIVE = {"specvlm": ("D", "SpecVLM"), "eagle2": ("^", "EAGLE-2-style"), "opt_tree": ("^", "OPT-Tree-style")}
"""The marks of policies that are drawn as single points, and what they are called."""


def curves(results: Results, axis_of: str) -> Figure:
    """Accepted drafts per round against the "nodes" that a round has on average or the "depth" that it may have, one
    panel per drafter; decoded policies as single points."""
    pairs = strengths(results)
    figure, panels = plt.subplots(1, len(pairs), figsize=(2.3 * len(pairs), 3.3), sharey=False)
    for panel, (pair, (_, name)) in zip(np.atleast_1d(panels), pairs.items(), strict=True):
        part = results.curves[(results.curves.pair == pair) & (results.curves.axis == axis_of)]
        for policy, label in POLICY.items():
            own = [(value, rows) for value, rows in part[part.policy == policy].groupby("value")]
            if own:
                x = [rows.nodes.mean() if axis_of == "nodes" else value for value, rows in own]
                found = [estimate(rows.tau) for _, rows in own]
                _line(panel, x, found, fmt="o-", markersize=3, linewidth=1, color=method_colour(policy), label=label)
        if axis_of == "nodes":
            points = [measures.named("specvlm", pair)]
            if pair == "vision":
                points += ["eagle2", "eagle2, small", "opt_tree", "opt_tree, small"]
            for arm in points:
                policy = results.arms[arm].policy
                x, e = results.by_seed(arm, size).mean(), estimate(taus(results, arm))
                _line(panel, [x], [e], fmt=ADAPTIVE[policy][0], markersize=5, color=method_colour(policy))
        panel.set(title=f"{name} guessed", xlabel="nodes per round" if axis_of == "nodes" else "levels allowed")
    first = np.atleast_1d(panels)[0]
    first.set(ylabel="accepted drafts per round τ")
    handles, labels = first.get_legend_handles_labels()
    if axis_of == "nodes":
        for policy, (marker, label) in ADAPTIVE.items():
            handles += first.plot([], [], marker, color=method_colour(policy))
            labels.append(label)
    figure.legend(handles, labels, fontsize="small", loc="lower center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    return figure


def threshold(results: Results) -> Figure:
    """SAGE's accepted drafts and nodes by the constant of its threshold, for every drafter."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4))
    part = results.curves[results.curves.axis == "scale"]
    values = sorted(part.value.unique(), reverse=True)
    for pair, (colour, name) in strengths(results).items():
        own = part[part.pair == pair].set_index("value")
        for axis, column in ((left, "tau"), (right, "nodes")):
            found = [estimate(own.loc[value, column]) for value in values]
            _line(axis, range(len(values)), found, fmt="o-", markersize=4, color=colour, label=name)
    for axis, label in ((left, "accepted drafts per round τ"), (right, "nodes per round")):
        axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axis.set(xlabel="constant of the threshold (the paper's: 0.1)", ylabel=label)
    right.legend(fontsize="small", title="guessed rightly")
    figure.tight_layout()
    return figure


def switches(results: Results) -> Figure:
    """What each of SAGE's ideas changes, by drafter, and each other reading: accepted drafts per round, within
    seeds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.0))
    for place, (pair, (colour, label)) in enumerate(strengths(results).items()):
        own = [ahead(results, measures.named("sage", pair), measures.named(name, pair)) for name in SWITCHES]
        errors = [[e.mean - e.low for e in own], [e.high - e.mean for e in own]]
        y = np.arange(len(own)) + 0.1 * (place - 2)
        left.errorbar(
            [e.mean for e in own], y, xerr=errors, fmt="o", capsize=2, color=colour, label=label, markersize=4
        )
    left.axvline(0, color="0.35", linewidth=1)
    left.set_yticks(range(len(SWITCHES)), SWITCHES)
    left.invert_yaxis()
    left.legend(fontsize="small", title="guessed rightly")
    figures.forest(right, {name: ahead(results, "sage", name) for name in READINGS})
    for axis in (left, right):
        axis.set(xlabel="accepted drafts per round, minus SAGE as stated")
    figure.tight_layout()
    return figure


def by_length(results: Results) -> Figure:
    """SAGE's gain in accepted length by generation length."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for rival in ("specvlm", "static", "chain"):
        gains = measures.length_gain(results, "sage", rival).dropna()
        found = [estimate(gains[n]) for n in gains]
        errors = [[e.mean - e.low for e in found], [e.high - e.mean for e in found]]
        colour = method_colour(rival)
        axis.errorbar(list(gains), [e.mean for e in found], yerr=errors, fmt="o-", capsize=2, color=colour)
        at = {"textcoords": "offset points", "ha": "right", "va": "bottom", "fontsize": 9, "color": colour}
        axis.annotate(f"over {NAMES[rival]}", (list(gains)[-1], found[-1].mean), xytext=(0, 7), **at)
    axis.axhline(0, color="0.35", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_xticks(measures.LENGTHS, measures.LENGTHS)
    axis.set(xlabel="tokens generated", ylabel="SAGE's accepted length, gain in %")
    return figure


def pruned(results: Results) -> Figure:
    """Accepted length left by rule and share of visual tokens dropped."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    arms = [name for name, arm in results.arms.items() if arm.drafter in PRUNING]
    figures.forest(axis, {name: left_by(results, name) for name in arms})
    wanted = ledger.claims()["sage-pruning"]
    for side in (-1, 1):
        axis.axvline(wanted.bar + side * wanted.margin, color="0.6", linewidth=1, linestyle=":")
    axis.axvline(100, color="0.35", linewidth=1)
    low = min(left_by(results, name).low for name in arms)
    axis.set(xlabel="accepted length left, %", xlim=(min(low, 94) - 1, 106))
    figure.tight_layout()
    return figure


def verify_cost(table: pd.DataFrame) -> Figure:
    """Seconds of a forward of N rows, in forwards of one row of the target."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    unit = table.query("model == 'target' and rows == 1").seconds.item()
    for (model, part), colour in zip(table.groupby("model", sort=False), COLOURS, strict=False):
        axis.plot(part.rows, part.seconds / unit, "o-", color=colour, label=model)
    axis.set(xlabel="rows N in one forward", ylabel="cost c(N), forwards of one row", ylim=(0, None))
    axis.legend(fontsize="small")
    return figure


def times(bench: pd.DataFrame) -> Figure:
    """Recorded decode time relative to plain decoding by this decoder, by stage; shorter is faster."""
    figure, axis = plt.subplots(figsize=(7.6, 4.6))
    whole = bench.groupby("arm", sort=False).sum(numeric_only=True)
    unit = whole.decode["autoregressive"]
    for row, (arm, values) in enumerate(whole.iterrows()):
        left = 0.0
        if values.verify > 0:
            for stage, colour in STAGES.items():
                axis.barh(row, values[stage] / unit, left=left, color=colour, label=stage if row == 0 else None)
                left += values[stage] / unit
        else:
            axis.barh(row, values.decode / unit, color="0.7")
            left = values.decode / unit
        e = estimate(speed(bench, arm) / speed(bench, "autoregressive"))
        axis.text(left + 0.01, row, f"{e.mean:.2f}× [{e.low:.2f}, {e.high:.2f}]", va="center", fontsize=8)
    axis.set_yticks(range(len(whole)), [NAMES.get(arm, arm) for arm in whole.index])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set(xlabel="decode time, plain = 1", xlim=(0, 1.35 * (whole.decode / unit).max()))
    legend_above(axis, len(STAGES))
    figure.tight_layout()
    return figure
