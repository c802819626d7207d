"""The figures of the vision part. Each takes the results and returns a matplotlib figure; none computes a result."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from palimpsest import figures
from palimpsest.chapters.neighbours.vision import PROBED, SPREAD, Results
from palimpsest.chapters.neighbours.vision_poison import KNOWN
from palimpsest.chapters.neighbours.vision_stress import PUBLISHED
from palimpsest.figures import COLOURS
from palimpsest.metrics.statistics import estimate

PARTS = {"right": "the whole network", "head": "its last layer alone", "body": "all but its last layer"}


def sides(results: Results) -> Figure:
    """Accuracy on what was to be forgotten, by the whole network and by its two parts: the headline of chapters 2 and
    3, and a class in small worlds."""
    figure, panels = plt.subplots(1, 2, figsize=(10.4, 4.0))
    asked = (("probes", PROBED, {}, "W4A4, random tenth"), ("worlds", PUBLISHED, {"kind": "one class"}, "one class"))
    for panel, (table, methods, at, title) in zip(panels, asked, strict=True):
        for place, (column, label) in enumerate(PARTS.items()):
            found = {m: estimate(results.column(table, column, m, **at)) for m in ("original", "retrain", *methods)}
            figures.forest(panel, found, colour=COLOURS[place], offset=0.2 * (1 - place), label=label)
        panel.set(title=title, xlabel="called by their label, %", xlim=(-5, 105))
    panels[0].legend(fontsize="small", loc="lower left")
    figure.tight_layout()
    return figure


def distances(results: Results) -> Figure:
    """KLoM against the average gap, one point per method with its intervals; Retrain again is the floor of both."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for place, method in enumerate(("original", *SPREAD, "retrain again")):
        x = estimate(results.column("worlds", "gap", method, kind="random"))
        y = estimate(results.column("klom", "klom", method))
        spread = {"xerr": [[x.mean - x.low], [x.high - x.mean]], "yerr": [[y.mean - y.low], [y.high - y.mean]]}
        axis.errorbar(x.mean, y.mean, **spread, fmt="o", capsize=3, color=COLOURS[place % len(COLOURS)])
        axis.annotate(method, (x.mean, y.mean), xytext=(6, 6), textcoords="offset points", fontsize=9)
    axis.set(xlabel="average gap to Retrain, points", ylabel="KLoM on the forget set, nats", xlim=(0, None))
    axis.set_ylim(0, None)
    figure.tight_layout()
    return figure


def corrections(results: Results) -> Figure:
    """Accuracy on triggered test images, with half of the poison known and with all of it."""
    figure, axis = plt.subplots(figsize=(6.8, 3.8))
    for place, known in enumerate(KNOWN):
        found = {
            method: estimate(results.column("poison", "corrected", method, known=known))
            for method in ("original", "retrain", *PUBLISHED)
        }
        figures.forest(axis, found, colour=COLOURS[place], offset=0.12 - 0.24 * place, label=f"{known} known")
    axis.set(xlabel="triggered images called by their own label, %", xlim=(-2, 102))
    axis.legend(fontsize="small")
    figure.tight_layout()
    return figure
