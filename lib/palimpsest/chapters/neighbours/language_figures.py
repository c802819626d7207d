"""The figures of the chapter's part on language. Each takes results and returns a matplotlib figure."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from palimpsest.chapters.neighbours.language_reading import MARGIN, RECIPES, TESTS, arms, left, named, separates
from palimpsest.chapters.neighbours.language_results import Results
from palimpsest.figures import COLOURS, forest
from palimpsest.metrics.statistics import estimate


def places(results: Results) -> Figure:
    """Every arm between Retrain (0 %) and the original (100 %), a row an arm, a mark a test that separates."""
    figure, axes = plt.subplots(1, len(RECIPES), figsize=(10.4, 5.2), sharex=True)
    for axis, recipe in zip(axes, RECIPES, strict=True):
        shown = [test for test in TESTS if separates(results, test, recipe)]
        for number, test in enumerate(shown):
            found = {arm: left(results, test, arm, recipe) for arm in arms(results, recipe)}
            offset = 0.08 * ((len(shown) - 1) / 2 - number)
            colour = COLOURS[list(TESTS).index(test) % len(COLOURS)]
            forest(axis, found, colour=colour, offset=offset, label=TESTS[test])
        axis.axvspan(-MARGIN, MARGIN, color="0.9", zorder=0)
        axis.axvline(100, color="0.35", linewidth=1, linestyle=":")
        axis.set(title=named(recipe), xlabel="left of the original's lead over Retrain, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    return figure


def outside_and_inside(results: Results) -> Figure:
    """What an arm has closed of the gap, and what its value vectors still write of the facts: one mark an arm."""
    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    for recipe, marker in zip(RECIPES, "os", strict=True):
        for number, arm in enumerate(arms(results, recipe)):
            closed = estimate(100 * results.column("gap closed", arm, recipe))
            traced = left(results, "written", arm, recipe)
            errors = {
                "xerr": [[closed.mean - closed.low], [closed.high - closed.mean]],
                "yerr": [[traced.mean - traced.low], [traced.high - traced.mean]],
            }
            label = f"{arm} ({named(recipe)})"
            axis.errorbar(
                closed.mean, traced.mean, **errors, fmt=marker, color=COLOURS[number % 10], capsize=2, label=label
            )
    axis.axhline(0, color="0.35", linewidth=1)
    axis.set(xlabel="gap closed, %", ylabel="trace left in value vectors, %")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure
