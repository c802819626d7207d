"""The one plotting style: seaborn's, colour-blind safe, and the same bytes on every run."""

import matplotlib
import pandas as pd
import seaborn
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib_inline.backend_inline import set_matplotlib_formats

from palimpsest import ledger
from palimpsest.ledger import Judgement
from palimpsest.metrics.statistics import Estimate

COLOURS = seaborn.color_palette("colorblind")


def style() -> None:
    """Set the style for a notebook. A fixed salt and no date make two runs draw the same SVG."""
    seaborn.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9)
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "palimpsest",
            "svg.fonttype": "path",
            "figure.figsize": (7.2, 3.8),
            "axes.titleweight": "bold",
        }
    )
    set_matplotlib_formats("svg", metadata={"Date": None})


def table(frame: pd.DataFrame) -> HTML:
    """`frame` as a plain table without row numbers, a dash for what is missing."""
    return HTML(frame.to_html(index=False, na_rep="–", border=0))


def forest(ax: Axes, estimates: dict[str, Estimate], *, colour=COLOURS[0], offset: float = 0.0, label=None) -> None:
    """One row per name: the mean and its 95 % interval, with a line at zero. The first name is on top."""
    rows = [len(estimates) - 1 - i + offset for i in range(len(estimates))]
    means = [e.mean for e in estimates.values()]
    errors = [[e.mean - e.low for e in estimates.values()], [e.high - e.mean for e in estimates.values()]]
    ax.errorbar(means, rows, xerr=errors, fmt="o", color=colour, capsize=3, label=label)
    ax.axvline(0, color="0.35", linewidth=1)
    if offset <= 0:
        ax.set_yticks([round(row - offset) for row in rows], list(estimates))
    ax.grid(axis="y", visible=False)


def claims_table(judged: dict[str, Judgement]) -> pd.DataFrame:
    """Verdict, measured value and reason of every claim judged in this run."""
    claims = ledger.claims()
    rows = [
        {
            "claim": j.id,
            "verdict": j.verdict,
            "measured": ledger.text(j.measured, claims[j.id].unit),
            "seeds": j.measured.n,
            "why": j.why,
        }
        for j in judged.values()
    ]
    return pd.DataFrame(rows)
