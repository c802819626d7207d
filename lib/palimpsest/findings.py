"""What was found, in words: values, rules and counts of the ledger as sentences that a page can print."""

import re
from collections import Counter
from collections.abc import Sequence

from palimpsest import ledger
from palimpsest.ledger import Claim
from palimpsest.papers import CHAPTERS
from palimpsest.verdicts import VERDICTS, Quantity

MARK = {"supported": "●", "contradicted": "○", "no effect": "=", "inconclusive": "?", "not run": "–"}
WHOSE = {"paper": "The papers' claims", "ours": "Claims of ours", "construction": "Guarantees by construction"}
SAID = {
    "supported": ("is supported", "are supported"),
    "contradicted": ("is contradicted", "are contradicted"),
    "no effect": ("shows no effect", "show no effect"),
    "inconclusive": ("is left open", "are left open"),
    "not run": ("was not run", "were not run"),
}
"""A verdict as the end of a sentence about one claim, and about several."""
PLACE = re.compile(r"\[\[([^\]]+)\]\]")
LEGEND = "● supported, ○ contradicted, = no effect that a user would notice, ? left open, – not run"


def of(claims: list[Claim], paper: str) -> list[Claim]:
    """Those of `paper`, the stem of its files."""
    return [claim for claim in claims if ledger.file_of(claim) == paper]


def place(text: str, claims: list[Claim]) -> tuple[str, Claim]:
    """What stands in a place of a text, `sau-best inconclusive`: mark and measured value, and the claim.

    Raises ValueError for what names no claim, and for a claim that has another verdict than the text says: then the
    text is no longer true.
    """
    known = {claim.id: claim for claim in claims}
    name, _, verdict = text.partition(" ")
    if name not in known:
        raise ValueError(f"place: got [[{text}]], want a claim with its verdict")
    if known[name].verdict != verdict:
        raise ValueError(f"place: got [[{text}]], but {name} is {known[name].verdict}; write that passage again")
    return f"{MARK[verdict]} {measured(known[name])}", known[name]


def slug(verdict: str) -> str:
    """A verdict as the name of a class of CSS, or a part of one of an id."""
    return verdict.replace(" ", "-")


def tally(claims: list[Claim]) -> str:
    """How many claims have which verdict, in a sentence for each of `WHOSE`."""
    sentences = []
    for by, whose in WHOSE.items():
        found = Counter(c.verdict for c in claims if c.by == by)
        counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])
        if found:
            sentences.append(f"{whose} ({found.total()}): {counts}.")
    return " ".join(sentences)


def measured(claim: Claim) -> str:
    """`−1.20 points [−2.10, −0.30]`, or a dash where the claim was not run."""
    return "–" if claim.verdict == "not run" else ledger.text(claim.judgement.measured, claim.unit)


def seeds(claim: Claim) -> str:
    """How many seeds the value of a claim that was judged is taken over."""
    n = claim.judgement.measured.n
    return f"{n} seeds" if n > 1 else "counted"


def rule(quantity: Quantity) -> str:
    """What a quantity must be for its claim to hold: `wanted above 5 %, margin 1 %`."""
    if quantity.wants == "zero":
        return "wanted: none"
    unit = f" {quantity.unit}".rstrip()
    if quantity.wants == "within":
        return f"wanted within {quantity.margin:g} of {quantity.bar:g}{unit}"
    return f"wanted {quantity.wants} {quantity.bar:g}{unit}, margin {quantity.margin:g}{unit}"


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def counted(claims: list[Claim]) -> str:
    """`2 are contradicted, 1 shows no effect and 2 are left open`."""
    found = Counter(c.verdict for c in claims)
    return listed([f"{found[v]} {SAID[v][found[v] > 1]}" for v in VERDICTS if found[v]])


def held(claims: list[Claim], papers: str) -> str:
    """One sentence: how many of the claims of `papers` (`the paper's`, `five papers'`) ended how, and apart from them
    our own and what holds by construction. Raises ValueError where the papers claim nothing."""
    by = {whose: [c for c in claims if c.by == whose] for whose in WHOSE}
    if not by["paper"]:
        raise ValueError(f"claims: got {[c.id for c in claims]}, want at least one by a paper")
    parts = [f"Of {papers} {len(by['paper'])} claims {counted(by['paper'])}"]
    for whose, one, several in (
        ("ours", "claim of ours", "claims of ours"),
        ("construction", "guarantee by construction", "guarantees by construction"),
    ):
        if found := by[whose]:
            name, verdicts = (one, several)[len(found) > 1], {c.verdict for c in found}
            same = f"{len(found)} {name} {SAID[found[0].verdict][len(found) > 1]}"
            parts.append(same if len(verdicts) == 1 else f"of {len(found)} {name} {counted(found)}")
    return "; ".join(parts) + "."


def main_claim(claims: list[Claim], paper: str) -> str:
    """One sentence: what became of the claim that the chapter of `paper` (the stem of its files) is written for."""
    (claim,) = (c for c in claims if c.id == CHAPTERS[paper].main)
    return f"Its main claim, {quoted(claim)}, {became(claim)}"


def quoted(claim: Claim) -> str:
    """The claim in its own words."""
    return f"“{claim.statement.rstrip('.')}”"


def became(claim: Claim) -> str:
    """The end of a sentence about a claim: its verdict, and what that rests on."""
    said = SAID[claim.verdict][0]
    if claim.verdict == "not run":
        return f"{said}."
    return f"{said}: {measured(claim)}, {seeds(claim)}; {rule(claim.quantities[claim.id])}."


def effort(claims: list[Claim]) -> str | None:
    """`8 minutes · 2 cores`, of the accepted run of these claims of one paper; None where it was not recorded."""
    record = next((c.record for c in claims if c.record), None)
    if record is None or not record.get("runtime_s"):
        return None
    return f"{record['runtime_s'] / 60:.0f} minutes · {record['environment']['cores']} cores"


def size(claims: list[Claim]) -> str:
    """How large the tests of the papers' claims were: `10 to 24 seeds each`."""
    found = [c.judgement.measured.n for c in claims if c.by == "paper" and c.verdict != "not run"]
    found = sorted({n for n in found if n > 1})
    return f"{found[0]} to {found[-1]} seeds each" if len(found) > 1 else f"{found[0]} seeds each"
