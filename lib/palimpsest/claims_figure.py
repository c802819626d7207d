"""The figure of all claims: one row a claim, with its effect drawn so that right is what the paper says.

A drawing in HTML and SVG that needs no script. Its colours are attributes, which `book/_static/claims.css` overrides,
so it can be read without that sheet too, as in JupyterLab. Rows are drawn in shares of their width, and so stretch.
"""

import math
from html import escape

from palimpsest import findings, verdicts
from palimpsest.ledger import Claim
from palimpsest.metrics.statistics import Estimate
from palimpsest.papers import CHAPTERS
from palimpsest.verdicts import Quantity

REACH = 15.0
"""Margins from the middle of the drawing to its edge."""
TICKS = (-10, -3, -1, 0, 1, 3, 10)
COLOUR = {"supported": "#0072b2", "contradicted": "#d55e00", "no effect": "#808080", "inconclusive": "#808080"}
CAPTION = (
    "Effects with 95 % intervals, in units of the margin, the smallest effect that a user would notice. Right of the "
    "line is what the {source} says; the band is one margin to either side; beyond it the scale is compressed. "
    "{legend}. † By the quantity drawn alone the verdict would be another: a second one must hold with it, "
    "or all rivals be beaten, or a correction or the seeds of tuning leave it open. The claim's card says more."
)


def toward(quantity: Quantity, e: Estimate) -> tuple[float, float, float]:
    """Mean and both ends of the interval in margins, above 0 where they are on the side that the claim wants.

    A quantity that wants to be within its margin is drawn by its distance to the nearer edge of it: 1 at the bar, 0
    at the edge, below 0 outside. Raises ValueError for a count that must be zero, which has no margin.
    """
    if quantity.wants == "zero":
        raise ValueError(f"quantity: got {quantity.quantity!r}, a count; want one with a margin")
    at = [(value - quantity.bar) / quantity.margin for value in (e.mean, e.low, e.high)]
    if quantity.wants == "within":
        mean, low, high = (1 - abs(value) for value in at)
        return mean, min(low, high), 1.0 if at[1] <= 0 <= at[2] else max(low, high)
    if quantity.wants == "below":
        return -at[0], -at[2], -at[1]
    return at[0], at[1], at[2]


def place(margins: float) -> str:
    """Where so many margins lie in a row, from its left edge: `50.00%` for 0. Beyond `REACH` it is the edge."""
    return f"{50 * (1 + math.asinh(max(-REACH, min(REACH, margins))) / math.asinh(REACH)):.2f}%"


def alone(claim: Claim) -> bool:
    """Whether the quantity that is drawn gives the claim's verdict by itself."""
    quantity = claim.quantities[claim.id]
    return claim.verdict == "not run" or verdicts.decide([(quantity, claim.judgement.measured)])[0] == claim.verdict


def effect(claim: Claim) -> str:
    """The drawing of one row; its alternative text is the result."""
    quantity, colour = claim.quantities[claim.id], COLOUR.get(claim.verdict)
    if claim.verdict == "not run":
        said, drawn = "not run", _text("not run")
    else:
        said = f"{claim.verdict}: {findings.measured(claim)}, {findings.seeds(claim)}"
        if quantity.wants == "zero":
            drawn = _text(f"{claim.judgement.measured.mean:g} {quantity.unit}")
        else:
            mean, low, high = map(place, toward(quantity, claim.judgement.measured))
            fill = colour if claim.verdict == "supported" else "#ffffff"
            drawn = (
                f'<line x1="{low}" x2="{high}" y1="50%" y2="50%" stroke="{colour}" stroke-width="2.5"/>'
                f'<circle cx="{mean}" cy="50%" r="4.5" stroke="{colour}" stroke-width="2" fill="{fill}"/>'
            )
    return _svg(f'<g class="{findings.slug(claim.verdict)}">{drawn}</g>', said)


def row(claim: Claim, page: str) -> str:
    """One claim: its mark, its words with a link to its card on `page`, and its effect."""
    kind, sign = findings.slug(claim.verdict), findings.MARK[claim.verdict]
    note = "" if alone(claim) else '<sup title="not by the quantity drawn alone">†</sup>'
    return (
        f'<li class="{kind}"><span class="words"><span class="sign">{sign}</span> '
        f'<a href="{page}#{claim.id}">{escape(claim.statement)}</a>{note}</span><br>{effect(claim)}</li>'
    )


def figure(claims: list[Claim], page: str, chapters: str | None = None) -> str:
    """The claims in the order of `papers.CHAPTERS`, as one block of HTML without an empty line.

    page: the address of the page with their cards; empty on that page itself. chapters: the address of the folder of
    chapters, for a heading a paper that leads there; None for the claims of one paper, without headings.
    """
    source = "paper" if any(claim.by == "paper" for claim in claims) else "claim"
    parts = [
        f'<figure class="claims" aria-label="{escape(findings.tally(claims))}">',
        f'<div class="axis"><span class="words"></span>{_axis(source)}</div>',
    ]
    for stem, paper in CHAPTERS.items():
        if own := findings.of(claims, stem):
            if chapters is not None:
                parts.append(f'<p class="paper"><a href="{chapters}{paper.chapter}.html">{paper.name}</a></p>')
            parts += ["<ul>", *(row(c, page) for c in own), "</ul>"]
    caption = CAPTION.format(source=source, legend=findings.LEGEND)
    return "\n".join([*parts, f"<figcaption>{caption}</figcaption>", "</figure>"])


def _text(words: str) -> str:
    return f'<text x="50%" y="50%" dy=".35em" text-anchor="middle" font-size="12" fill="#808080">{words}</text>'


def _svg(inside: str, said: str) -> str:
    left, right, middle = place(-1), place(1), place(0)
    width = f"{float(right[:-1]) - float(left[:-1]):.2f}%"
    return (
        f'<svg class="effect" width="320" height="26" role="img" aria-label="{escape(said)}">'
        f'<rect x="{left}" y="0" width="{width}" height="100%" fill="#808080" fill-opacity=".16"/>'
        f'<line x1="{middle}" x2="{middle}" y1="0" y2="100%" stroke="#808080"/>{inside}</svg>'
    )


def _axis(source: str) -> str:
    ticks = {place(tick): f"{tick:g}".replace("-", "−") for tick in TICKS}
    words = "".join(f'<text x="{x}" y="32" text-anchor="middle">{tick}</text>' for x, tick in ticks.items())
    return (
        '<svg class="scale" width="320" height="36" role="img" aria-label="Scale in margins: left of 0 is against '
        f'the {source}, right of 0 is what it says"><g font-size="11" fill="#808080">'
        f'<text x="48%" y="14" text-anchor="end">← against the {source}</text>'
        f'<text x="52%" y="14">as it says →</text>{words}</g></svg>'
    )
