"""The front page's generated parts: five cards, the ways in, and the line of facts."""

from palimpsest import findings, ledger
from palimpsest.ledger import Claim
from palimpsest.papers import PAPERS
from palimpsest.publish import citation
from palimpsest.runs import paths


def headline(claims: list[Claim]) -> str:
    """One sentence: the tally and the size of the tests."""
    held = findings.held(claims, "the five papers’").rstrip(".")
    return f"**{held}: tested on toy models, {findings.size(claims)}.**"


def cards(claims: list[Claim]) -> str:
    """Per paper its true title, what became of its main claim, and what could not be read."""
    cff = citation.read(paths.ROOT)
    titles = {reference["url"].rpartition("/")[2]: reference["title"] for reference in cff["references"]}
    parts = []
    for stem, paper in PAPERS.items():
        own = findings.of(claims, stem)
        facts = " · ".join(filter(None, [findings.effort(own), f"not read: {paper.unread}"]))
        title = titles[paper.arxiv]
        named = title if title.startswith(paper.name) else f"{paper.name}: {title}"
        parts += [
            f"{{doc}}`{named} <notebooks/{paper.chapter}>`",
            f": {findings.main_claim(own, stem)}",
            f": *{facts[0].upper()}{facts[1:]}.*",
            "",
        ]
    return "\n".join(parts)


def doors(claims: list[Claim]) -> str:
    """In ten minutes, read, run, use on a model of one's own."""
    records = {ledger.file_of(c): c.record for c in claims if c.record}
    seconds = [record.get("runtime_s") for record in records.values()]
    took = f", {sum(seconds) / 60:.0f} minutes when it was last recorded" if seconds and all(seconds) else ""
    parts = [
        "**In ten minutes**",
        ": {doc}`one small experiment from each paper <notebooks/09_ten_minutes>`, computed before your eyes.",
        "",
        "**Read**",
        ": begin with {doc}`SAU <notebooks/01_sau>`, or with {doc}`what held <what_held>`.",
        "",
        "**Run**",
        f": `make book` in a checkout computes everything again on two CPU cores{took}; {{doc}}`reproduce`.",
        "",
        "**Use on your model**",
        ": unlearn, select, decode: {doc}`own_model`.",
        "",
    ]
    return "\n".join(parts)


def facts() -> str:
    """Authors, version, licence, how to cite, source."""
    cff = citation.read(paths.ROOT)
    authors, licences = ", ".join(citation.authors(cff)), " and ".join(cff["license"])
    return (
        f"{authors} · version {cff['version']} · {{doc}}`{licences} <licence>` · "
        "{doc}`cite <how_to_cite>` · {doc}`source and contributing <contribute>`"
    )
