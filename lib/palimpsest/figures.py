"""The one plotting style: seaborn's, colour-blind safe, and the same bytes on every run."""

from collections.abc import Mapping, Sequence
from html import escape

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
_BLUE, _ORANGE, _GREEN, _RED, _PINK, _BROWN, _, _GREY, _, _SKY = COLOURS
METHODS = {
    # what others are measured against
    **dict.fromkeys(("target", "original"), "0.5"),
    **dict.fromkeys(("oracle", "retrain", "specvlm"), "black"),
    # the papers' methods
    **{"D wanda": _GREEN, "OEU": _PINK, "Q-MUL": _RED, "jscds": _BLUE, "sage": _ORANGE},
    # updates of a sparse language model, and policies of drafting, which stand beside them
    **{"A": _BLUE, "B": _ORANGE, "C": _PINK, "C, again": _BROWN, "E": _GREY, "F": _RED},
    **{"static": _BLUE, "chain": _GREY, "sage, tuned": _BROWN, "eagle2": _PINK, "opt_tree": _GREEN},
    # the parts of the unlearning methods that are drawn by themselves
    **{"entropy only": _BROWN, "random label": _BLUE, "similar labels": _GREEN, "KL(u, p)": _ORANGE},
    "random": _ORANGE,
}
"""The colour of a method, by its name in rows, in every figure of the book; those that are drawn together differ.
There are more methods than colours that can be told apart, so those without an entry share one (`method_colour`)."""
SIDES = {"forget": _ORANGE, "retain": _BLUE}
"""The colours of what belongs to the forget and to the retain set."""


def method_colour(name: str):
    """The colour of a method of any chapter."""
    return METHODS.get(name, _SKY)


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


def table(
    frame: pd.DataFrame,
    shown: Sequence[str] | None = None,
    folded: Mapping[str, Sequence[str]] | None = None,
    keys: int = 1,
) -> HTML:
    """`frame` as a plain table without row numbers, a dash for what is missing.

    shown: its columns that answer the question of the table; None for all. folded: further columns, by the words that
    unfold them; they stand beside the first `keys` columns of `frame`, which say what a row is.
    """
    parts = [_table(frame if shown is None else frame[[*shown]])]
    for words, columns in (folded or {}).items():
        inside = _table(frame[[*frame.columns[:keys], *columns]])
        parts.append(f"<details><summary>{escape(words)}</summary>{inside}</details>")
    return HTML("\n".join(parts))


def _table(frame: pd.DataFrame) -> str:
    return frame.to_html(index=False, na_rep="–", border=0)


def forest(ax: Axes, estimates: dict[str, Estimate], *, colour=COLOURS[0], offset: float = 0.0, label=None) -> None:
    """One row per name: the mean and its 95 % interval, with a line at zero. The first name is on top. colour: of all
    rows, or a function that gives it for a name."""
    rows = [len(estimates) - 1 - i + offset for i in range(len(estimates))]
    for i, (row, (name, e)) in enumerate(zip(rows, estimates.items(), strict=True)):
        ax.errorbar(
            e.mean,
            row,
            xerr=[[e.mean - e.low], [e.high - e.mean]],
            fmt="o",
            color=colour(name) if callable(colour) else colour,
            capsize=3,
            label=None if i else label,
        )
    ax.axvline(0, color="0.35", linewidth=1)
    if offset <= 0:
        ax.set_yticks([round(row - offset) for row in rows], list(estimates))
    ax.grid(axis="y", visible=False)


def legend_above(ax: Axes, columns: int = 3, **style) -> None:
    """The legend over the axes, where no data are."""
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=8, frameon=False, **style)


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
