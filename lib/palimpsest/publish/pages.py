"""Pages that the ledger fills, such as the front page and the appendix, and the claims table of the README.

Such a page is written by hand in `book/`, with places in double brackets. `[[figure]]` is one of `PARTS`;
`[[sau-best inconclusive]]` is the measured value of a claim that the text around it calls inconclusive.
"""

import re
from collections.abc import Callable
from pathlib import Path

from palimpsest import claims_figure, findings, ledger
from palimpsest.ledger import Claim
from palimpsest.publish import cards, front, machines
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic

FILLED = ("index.md", "own_model.md", "preface.md", "what_held.md", "artifact.md")
PARTS: dict[str, Callable[[list[Claim]], str]] = {
    "headline": front.headline,
    "figure": lambda claims: claims_figure.figure(claims, "what_held.html", "notebooks/"),
    "papers": front.cards,
    "doors": front.doors,
    "facts": lambda claims: front.facts(),
    "filters": cards.filters,
    "cards": cards.cards,
    "untested": cards.untested,
    "accepted": lambda claims: machines.accepted(ledger.load()),
    "minutes": lambda claims: machines.minutes(ledger.load()),
    "pinning": lambda claims: machines.pinning(),
    "ways_in": lambda claims: machines.doors(),
    "drills": lambda claims: machines.drilled(),
}
README_MARKERS = ("<!-- claims -->", "<!-- /claims -->")
README_FIGURE = ("04_jscds", "fig-jscds-differences", "jscds_differences.svg")


def fill(page: str, claims: list[Claim]) -> str:
    """`page` with its places filled.

    Raises ValueError as `findings.place` does, for a place that is none of `PARTS`.
    """

    def put(place: re.Match) -> str:
        if place[1] in PARTS:
            return PARTS[place[1]](claims)
        value, claim = findings.place(place[1], claims)
        return f"([{value}](#{claim.id}))"

    return findings.PLACE.sub(put, page)


def write(results: Path | None = ledger.FRESH, build_dir: Path = paths.BUILD) -> list[Path]:
    """Render the pages of the site from `results` (None: the accepted ones) into `build_dir`, and return their
    paths."""
    claims, folder = ledger.load(results), build_dir / "generated"
    texts = {name: fill((paths.ROOT / "book" / name).read_text(encoding="utf-8"), claims) for name in FILLED}
    texts["claims.csv"] = cards.table(claims)
    for name, text in texts.items():
        write_atomic(folder / name, lambda file, text=text: Path(file).write_text(text, encoding="utf-8"))
    return [folder / name for name in texts]


def claims_table(claims: list[Claim]) -> str:
    """One row per claim, as a Markdown table."""
    rows = ["| claim | states | verdict | measured, 95 % interval | seeds |", "|---|---|---|---|---|"]
    for c in claims:
        n = "–" if c.verdict == "not run" else c.judgement.measured.n if c.judgement.measured.n > 1 else "counted"
        # A blank that no line breaks at keeps the mark beside its word.
        verdict = f"{findings.MARK[c.verdict]}\N{NO-BREAK SPACE}{c.verdict}"
        rows.append(f"| `{c.id}` | {c.statement} | {verdict} | {findings.measured(c)} | {n} |")
    return "\n".join(rows) + "\n"


def readme_with_table(readme: str) -> str:
    """`readme` with the accepted claims between its two markers; ValueError when a marker is missing."""
    start, end = README_MARKERS
    if readme.count(start) != 1 or readme.count(end) != 1:
        raise ValueError(f"README.md: want exactly one {start} and one {end}")
    claims = ledger.load()
    table = f"{findings.tally(claims)}\n\n" + claims_table(claims)
    head, tail = readme.split(start)[0], readme.split(end)[1]
    return f"{head}{start}\n{table}{end}{tail}"


def write_readme() -> None:
    """Put the accepted claims and the committed figure into README.md."""
    file, figure = paths.ROOT / "README.md", paths.ROOT / "book" / "_static" / README_FIGURE[-1]
    text = readme_with_table(file.read_text(encoding="utf-8"))
    write_atomic(file, lambda path: Path(path).write_text(text, encoding="utf-8"))
    write_atomic(figure, lambda path: Path(path).write_text(readme_figure(), encoding="utf-8"))


def readme_figure() -> str:
    """The README's figure as SVG, out of the committed notebook; ValueError when that has no such figure."""
    import nbformat  # seconds to import, which few need

    chapter, name, _ = README_FIGURE
    path = paths.ROOT / "notebooks" / f"{chapter}.ipynb"
    for cell in nbformat.read(path, 4).cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell.outputs:
                if "image/svg+xml" in output.get("data", {}):
                    return output.data["image/svg+xml"]
    raise ValueError(f"{path}: no cell named {name} has an SVG output")
