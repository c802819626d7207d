"""The closing page's cards: everything that the ledger knows of a claim, and the same as a table to download."""

import csv
import io
from collections import Counter

from palimpsest import findings, ledger
from palimpsest.ledger import Claim
from palimpsest.papers import CHAPTERS, PAPERS
from palimpsest.verdicts import VERDICTS

COLUMNS = ("id", "paper", "by", "statement", "verdict", "quantity", "unit", "wants", "bar", "margin")


def filters(claims: list[Claim]) -> str:
    """Links that leave the cards of one paper or of one verdict: `book/_static/claims.css` hides the others while
    such a link is the target of the page's address."""
    found = Counter(c.verdict for c in claims)
    by_paper = [_filter(stem, p.name, len(own)) for stem, p in CHAPTERS.items() if (own := findings.of(claims, stem))]
    by_verdict = [_filter(findings.slug(v), f"{findings.MARK[v]} {v}", found[v]) for v in VERDICTS if found[v]]
    return "\n".join(
        [
            f'<nav class="filters" aria-label="Which claims are shown">{_filter("all", "all", len(claims))}',
            " ".join(by_paper),
            " ".join(by_verdict),
            "</nav>",
        ]
    )


def _filter(name: str, words: str, n: int) -> str:
    return f'<a id="only-{name}" href="#only-{name}">{words} ({n})</a>'


def cards(claims: list[Claim]) -> str:
    """A section for each chapter in reading order, and in it one for each of its claims."""
    parts = []
    for stem, paper in CHAPTERS.items():
        if own := findings.of(claims, stem):
            parts += [f"### {paper.name}", "", f"{{doc}}`notebooks/{paper.chapter}`", ""]
            parts += [card(c, stem) for c in own]
    return "\n".join(parts)


def card(claim: Claim, stem: str) -> str:
    """Words, verdict, value, what was wanted and why it came out so; the rest is folded."""
    notebook, _, tag = claim.cell.partition("#")
    setting = claim.record["setting"] if claim.record else "not run"
    together = [f"- *Together with* {q.quantity}: {findings.rule(q)}" for q in list(claim.quantities.values())[1:]]
    lines = [
        f"({claim.id})=",
        f"#### {claim.statement}",
        "",
        f":::{{div}} claim {stem} {findings.slug(claim.verdict)}",
        f"{findings.MARK[claim.verdict]} **{claim.verdict}** · {_value(claim)} · `{claim.id}`",
        ":::",
        "",
        f"*Quantity*: {claim.quantity}; {findings.rule(claim.quantities[claim.id])}.",
        "",
        f"*Why*: {claim.judgement.why if claim.judgement else 'Not run.'}",
        "",
        ":::{dropdown} Rule, settings, command",
        *together,
        f"- *Margin*: {claim.margin_reason}",
        f"- *Power*: {_power(claim)}",
        f"- *The paper*: {claim.paper_value} ({claim.locus}). Its setting: {claim.paper_setting}",
        f"- *Here*: {setting}; profile `{claim.profile}`, kind *{claim.kind}*, by {claim.by}",
        f"- *Again*: `{claim.command}`; cell `{tag}` of {{doc}}`notebooks/{notebook}`",
        ":::",
        "",
    ]
    return "\n".join(lines)


def _value(claim: Claim) -> str:
    """What was measured, with its spread."""
    if claim.judgement is None:
        return "–"
    e = claim.judgement.measured
    value = f"{ledger.text(e, claim.unit)}, {f'sd {e.sd:.2f}, {e.n} seeds' if e.n > 1 else 'counted'}"
    return f"out of the claim's range: {value}" if claim.verdict == "not run" else value


def _power(claim: Claim) -> str:
    """How many seeds would decide, beside how many there are."""
    if claim.judgement is None:
        return "not known before a run"
    if claim.power is None:
        return "a count; nothing is drawn"
    return (
        f"{claim.power} seeds would find an effect of the margin in four of five repetitions, by the spread measured "
        f"here; {claim.judgement.measured.n} were run"
    )


def untested(claims: list[Claim]) -> str:
    """What could not be tested: claims out of range, and what of each paper could not be read."""
    parts = [
        f"- {c.paper}, [{c.statement.rstrip('.')}](#{c.id}): {' '.join(c.pending.values()) or 'no run was recorded.'}"
        for c in claims
        if c.verdict == "not run"
    ]
    return "\n".join([*parts, *(f"- {paper.name}, not read: {paper.unread}." for paper in PAPERS.values())])


def table(claims: list[Claim]) -> str:
    """Every claim as one row of CSV, with the estimate of its first quantity in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, "mean", "low", "high", "sd", "seeds", "why"])
    for c in claims:
        e = c.judgement and c.judgement.measured
        found = [e.mean, e.low, e.high, e.sd, e.n, c.judgement.why] if e else [""] * 6
        writer.writerow([*(getattr(c, name) for name in COLUMNS), *found])
    return out.getvalue()
