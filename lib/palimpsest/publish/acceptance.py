"""Accepting measured values: execute, accept, execute, render, in this order.

The second execution takes its rows from the cache; its pages print the values as accepted. Other papers than the
ones named keep what was accepted, their notebooks too.
"""

from palimpsest import arithmetic, findings, ledger
from palimpsest.ledger import Claim
from palimpsest.publish import gates, pages


def chapters(papers: list[str]) -> dict[str, str]:
    """The chapter of each paper, by the stem of its files, such as `04_jscds` of `jscds`; ValueError for another."""
    known = {ledger.file_of(claim): claim.cell.partition("#")[0] for claim in ledger.claims().values()}
    for paper in papers:
        if paper not in known:
            raise ValueError(f"papers: got {paper!r}, want some of {sorted(known)}")
    return {paper: known[paper] for paper in dict.fromkeys(papers)}


def accept(papers: list[str]) -> list[str]:
    """Make what the chapters of `papers` measure now the accepted values, and their notebooks, the README and the
    pages those of it. Returns a line for each claim that moved.

    Raises ValueError for an unknown paper before anything is executed, and GateError where a chapter fails, before
    anything is accepted.
    """
    found = chapters(papers)
    arithmetic.pin()  # for the kernels that are started from here
    before = {claim.id: claim for claim in ledger.load()}
    for chapter in found.values():
        gates.execute(chapter)
    ledger.accept(list(found), cold_seconds(found))
    for chapter in found.values():
        gates.refresh(chapter)
    pages.write()
    pages.write_readme()
    return [line for claim in ledger.load() if (line := moved(before[claim.id], claim))]


def cold_seconds(found: dict[str, str]) -> dict[str, float]:
    """By paper, how long its chapter took when it last found nothing in the cache; without it where it never did."""
    files = {paper: gates.EXECUTED / f"{chapter}.seconds" for paper, chapter in found.items()}
    return {paper: float(file.read_text()) for paper, file in files.items() if file.exists()}


def moved(before: Claim, after: Claim) -> str | None:
    """`jscds-half: inconclusive, −0.90 points [−2.25, 0.46] → …`, or None where neither verdict nor value moved."""
    old, new = (f"{claim.verdict}, {findings.measured(claim)}" for claim in (before, after))
    return None if old == new else f"{after.id}: {old} → {new}"
