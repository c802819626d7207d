"""The figures of the SAGE chapter. Each takes tables and returns a matplotlib figure; none computes a result."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from palimpsest import figures, ledger
from palimpsest.chapters.sage import measures
from palimpsest.chapters.sage.arms import PRUNING, READINGS, SWITCHES
from palimpsest.chapters.sage.claims import NAMES, left_by, speed, taus
from palimpsest.chapters.sage.requests import CANDIDATES
from palimpsest.chapters.sage.results import Results, size
from palimpsest.figures import COLOURS
from palimpsest.metrics.statistics import estimate, paired

SHORT = {"chain": "chain", "specvlm": "SpecVLM", "static": "static", "eagle2": "EAGLE-2", "opt_tree": "OPT-Tree"}
STAGES = {"verify": COLOURS[0], "draft": COLOURS[1], "tree": COLOURS[3], "rest": COLOURS[7]}


def lemma(results: Results, count: int = 3000) -> Figure:
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
    drafts = results.followed[results.followed.pair == "vision"]
    axis.scatter(drafts.alpha, drafts["first"], s=4, color=COLOURS[0], label="this drafter's distributions")
    alpha = np.linspace(0, 1, 100)
    axis.plot(alpha, (1 + alpha * (CANDIDATES - 1)) / CANDIDATES, color=COLOURS[3], label="Lemma 4.3 as stated")
    axis.plot(alpha, CANDIDATES ** (alpha - 1), color=COLOURS[2], label="$k^{\\alpha-1}$")
    axis.set(xlabel="confidence α", ylabel="largest probability $p_1$")
    axis.legend(fontsize="small", markerscale=2)
    return figure


def signal(results: Results) -> Figure:
    """Left: how often the drafter's likeliest token is right, by confidence. Right: accepted length by confidence."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    table = measures.reliability(results)
    left.plot(table.alpha, table.hit, "o-", color=COLOURS[0])
    left.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    left.set(xlabel="confidence α at a token", ylabel="drafter's likeliest token accepted", ylim=(0, 1.03))
    rounds = measures.rounds(results, "static")
    for column, colour, label in (
        ("alpha", COLOURS[0], "of this round"),
        ("before", COLOURS[1], "of the round before"),
    ):
        known = rounds.dropna(subset=column)
        fifth = known.groupby(pd.qcut(known[column], 5, duplicates="drop"), observed=True)
        centre, mean, error = fifth[column].mean(), fifth.accepted.mean(), 1.96 * fifth.accepted.sem()
        right.errorbar(centre, mean, yerr=error, fmt="o-", capsize=2, color=colour, label=label)
    right.set(xlabel="confidence α at the root", ylabel="accepted drafts in the round")
    right.legend(fontsize="small", title="α")
    figure.tight_layout()
    return figure


def memory(results: Results) -> Figure:
    """Autocorrelation of alpha by lag, in rounds and in tokens, with the shuffled control."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    for axis, unit in zip(axes, ("round", "token"), strict=True):
        table = measures.memories(results, unit)
        for column, colour, label in (("memory", COLOURS[0], "as drafted"), ("shuffled", "0.6", "shuffled")):
            lags = [(lag, estimate(part[column])) for lag, part in table.groupby("lag") if len(part) > 1]
            mean = [e.mean for _, e in lags]
            errors = [[e.mean - e.low for _, e in lags], [e.high - e.mean for _, e in lags]]
            axis.errorbar([lag for lag, _ in lags], mean, yerr=errors, fmt="o-", capsize=2, color=colour, label=label)
        axis.axhline(0, color="0.35", linewidth=1)
        axis.set(xlabel=f"lag in {unit}s")
    axes[0].set(ylabel="correlation of α with itself")
    axes[1].legend(fontsize="small")
    figure.tight_layout()
    return figure


def budgets(results: Results) -> Figure:
    """Accepted drafts per round against nodes per round, every policy; intervals over seeds."""
    figure, axis = plt.subplots(figsize=(7.6, 4.4))
    groups = {
        "64 nodes, 8 levels": (["static", "eagle2", "opt_tree", "chain"], "o"),
        "SAGE's mean size": (["static, small", "eagle2, small", "opt_tree, small"], "s"),
        "SAGE": (["sage", "sage, tuned"], "*"),
        "SpecVLM's 25 nodes": (["specvlm"], "D"),
    }
    colours = {"chain": COLOURS[7], "static": COLOURS[0], "eagle2": COLOURS[1], "opt_tree": COLOURS[4]}
    colours |= {"sage": COLOURS[3], "specvlm": "black"}
    in_legend = ("static", "eagle2", "opt_tree")
    for label, (arms, marker) in groups.items():
        for arm in arms:
            e, nodes = estimate(taus(results, arm)), results.by_seed(arm, size).mean()
            policy = results.arms[arm].policy
            colour = colours[policy]
            axis.errorbar(
                nodes,
                e.mean,
                yerr=[[e.mean - e.low], [e.high - e.mean]],
                fmt=marker,
                capsize=2,
                color=colour,
                markersize=11 if marker == "*" else 6,
            )
            text = {"sage": "SAGE", "sage, tuned": "SAGE, tuned"}.get(arm, SHORT.get(policy))
            # Where many stand at one size, the colour names them.
            if policy not in in_legend:
                offset = (7, 5) if policy == "chain" else (7, -11)  # below it stand others
                axis.annotate(text, (nodes, e.mean), xytext=offset, textcoords="offset points", fontsize=8)
        axis.plot([], [], marker, color="0.4", label=label)
    for policy in in_legend:
        axis.plot([], [], "_", color=colours[policy], markersize=10, markeredgewidth=3, label=SHORT[policy])
    axis.set(xlabel="drafted nodes that the target verifies, per round", ylabel="accepted drafts per round τ")
    axis.margins(x=0.12)
    axis.legend(fontsize="small", loc="lower right")
    return figure


def switches(results: Results) -> Figure:
    """What each of SAGE's ideas and each other reading changes: accepted drafts per round, within seeds."""
    figure, axis = plt.subplots(figsize=(7.6, 4.0))
    differences = {name: paired(taus(results, name), taus(results, "sage")) for name in (*SWITCHES, *READINGS)}
    figures.forest(axis, differences)
    axis.axhline(len(READINGS) - 0.5, color="0.6", linestyle=":", linewidth=1)
    axis.set(xlabel="accepted drafts per round, minus SAGE as stated")
    figure.tight_layout()
    return figure


def by_length(results: Results) -> Figure:
    """SAGE's gain in accepted length by generation length."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for rival, colour in (("specvlm", "black"), ("static", COLOURS[0]), ("eagle2", COLOURS[1])):
        gains = measures.length_gain(results, "sage", rival).dropna()
        found = [estimate(gains[n]) for n in gains]
        errors = [[e.mean - e.low for e in found], [e.high - e.mean for e in found]]
        axis.errorbar(
            list(gains), [e.mean for e in found], yerr=errors, fmt="o-", capsize=2, color=colour, label=NAMES[rival]
        )
    axis.axhline(0, color="0.35", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_xticks(measures.LENGTHS, measures.LENGTHS)
    axis.set(xlabel="tokens generated", ylabel="SAGE's accepted length, gain in %")
    axis.legend(fontsize="small", title="over", loc="center right")
    return figure


def pruned(results: Results) -> Figure:
    """Accepted length left by the share of visual tokens that the drafter does without."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for by, colour, shift in zip(PRUNING, (COLOURS[0], COLOURS[2], "0.5"), (0, 0.004, -0.004), strict=True):
        arms = {name: arm for name, arm in results.arms.items() if arm.drafter == by}
        found = [left_by(results, name) for name in arms]
        errors = [[e.mean - e.low for e in found], [e.high - e.mean for e in found]]
        ratios = [arm.ratio + shift for arm in arms.values()]
        axis.errorbar(ratios, [e.mean for e in found], yerr=errors, fmt="o-", capsize=2, color=colour, label=by)
    axis.axhline(100, color="0.35", linewidth=1)
    wanted = ledger.claims()["sage-pruning"]
    axis.axhline(wanted.bar - wanted.margin, color="0.6", linewidth=1, linestyle=":")
    axis.set(xlabel="share of the picture's tokens dropped in the drafter", ylabel="accepted length left, %")
    axis.legend(fontsize="small")
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
    axis.legend(fontsize="small", loc="lower right")
    figure.tight_layout()
    return figure
