"""Pages that the ledger renders: the claims table (front page and README), the results and the status page."""

from collections.abc import Callable
from pathlib import Path

import nbformat

from palimpsest import ledger
from palimpsest.ledger import Claim
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic

MARK = {"reproduced": "●", "trend only": "◐", "not reproduced": "○", "not run": "–"}
README_MARKERS = ("<!-- claims -->", "<!-- /claims -->")
README_FIGURE = ("04_jscds", "fig-jscds-differences", "jscds_differences.svg")


def measured(claim: Claim) -> str:
    """`−1.20 points [−2.10, −0.30]`, or a dash."""
    if claim.judgement is None:
        return "–"
    e = claim.judgement.measured
    interval = f" [{e.low:.2f}, {e.high:.2f}]" if e.n > 1 else ""
    return f"{e.mean:.2f} {claim.unit}{interval}".replace("-", "−")


def claims_table(claims: list[Claim], link: Callable[[Claim], str]) -> str:
    """One row per claim, as a Markdown table. `link` turns a claim into the text of its first cell."""
    rows = ["| claim | states | verdict | measured, 95 % interval | seeds |", "|---|---|---|---|---|"]
    for c in claims:
        n = "–" if c.judgement is None else c.judgement.measured.n if c.judgement.measured.n > 1 else "counted"
        rows.append(f"| {link(c)} | {c.statement} | {MARK[c.verdict]} {c.verdict} | {measured(c)} | {n} |")
    return "\n".join(rows) + "\n"


def results_page(claims: list[Claim]) -> str:
    """Every claim with both settings, the rule, the measured value and the reason."""
    parts = [
        "# Results",
        "",
        "Every claim with the rule that was fixed for it, what was measured, and why.",
        "",
    ]
    for paper in dict.fromkeys(c.paper for c in claims):
        parts += [f"## {paper}", ""]
        for c in (c for c in claims if c.paper == paper):
            notebook = c.cell.partition("#")[0]
            parts += [
                f"({c.id})=",
                f"### {c.id}",
                "",
                f"**{c.statement}** {MARK[c.verdict]} *{c.verdict}*",
                "",
                *_measured(c),
                f"- *Rule*: {c.rule}.",
                f"- *Paper*: {c.paper_value} ({c.locus}). Setting: {c.paper_setting}.",
                f"- *Ours*: {c.our_setting}; profile `{c.profile}`, kind *{c.kind}*.",
                f"- *Cell*: {{doc}}`notebooks/{notebook}`, tag `{c.cell.partition('#')[2]}`. Again: `{c.command}`.",
                "",
            ]
    return "\n".join(parts)


def _measured(claim: Claim) -> list[str]:
    """What was measured, and why."""
    if claim.judgement is None:
        return [f"- *Measured*: {claim.measure}: –.", "- *Why*: Not run."]
    e = claim.judgement.measured
    spread = f"sd {e.sd:.2f}, {e.n} seeds" if e.n > 1 else "counted, no spread"
    return [f"- *Measured*: {claim.measure}: {measured(claim)} ({spread}).", f"- *Why*: {claim.judgement.why}"]


def status_page(claims: list[Claim]) -> str:
    """What was accepted, on which machine, and how far a rerun may lie from it."""
    counts = {v: sum(c.verdict == v for c in claims) for v in ledger.VERDICTS}
    parts = [
        "# Status",
        "",
        ", ".join(f"{n} {v}" for v, n in counts.items()) + ".",
        "",
        "The accepted values below are what a rerun is compared with. A rerun beyond the tolerance, or with another "
        "verdict, fails the build; so does a hand-edited file, because every file is checked against its SHA-256.",
        "",
        "Processors round differently where they may choose their routines, and training amplifies that until the "
        "networks are others. So the chapters compute with routines that every x86-64 processor with AVX2 has.",
        "",
        "| claim | accepted | tolerance | because | accepted on |",
        "|---|---|---|---|---|",
    ]
    for c in claims:
        if c.judgement is None:
            parts.append(f"| {c.id} | not run | | | |")
            continue
        tolerance = f"{c.tolerance(c.judgement.measured):.2g} {c.unit}"
        parts.append(f"| {c.id} | {measured(c)} | {tolerance} | {c.floor_reason} | {c.record['date']} |")
    parts += [
        "",
        "## Where the accepted values were computed",
        "",
        "| chapter | profile | minutes | cores | python | torch | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    parts += dict.fromkeys(_where(c, c.record) for c in claims if c.record)
    parts += [
        "",
        "## Not run",
        "",
        "- Profile `study` on a GPU, profile `paper`, and every kernel benchmark on a GPU: no row in `data/results`, "
        "`data/studies` or `data/bench` says otherwise.",
        "- Every paper's own data and models, where they are not public.",
        "",
    ]
    return "\n".join(parts)


def _where(claim: Claim, record: dict) -> str:
    """The row of an accepted run in the table of machines."""
    e, runtime = record["environment"], record["runtime_s"]
    minutes = f"{runtime / 60:.1f}" if runtime else "not recorded"
    return (
        f"| {ledger.file_of(claim)} | {claim.profile} | {minutes} | {e['cores']} ({e.get('processor', e['cpu'])}) "
        f"| {e['python']} | {e['torch']} | `{e['commit']}` |"
    )


def write() -> list[Path]:
    """Render the pages of the site from the fresh results, and return their paths."""
    accepted, fresh = ledger.load(), ledger.load(ledger.FRESH)
    folder = paths.BUILD / "generated"
    table = claims_table(fresh, lambda c: f"[{c.id}](#{c.id})")
    pages = {"claims_table.md": table, "results.md": results_page(fresh), "status.md": status_page(accepted)}
    for name, text in pages.items():
        write_atomic(folder / name, lambda file, text=text: Path(file).write_text(text, encoding="utf-8"))
    return [folder / name for name in pages]


def readme_with_table(readme: str) -> str:
    """`readme` with the accepted claims between its two markers; ValueError when a marker is missing."""
    start, end = README_MARKERS
    if readme.count(start) != 1 or readme.count(end) != 1:
        raise ValueError(f"README.md: want exactly one {start} and one {end}")
    table = claims_table(ledger.load(), lambda c: f"`{c.id}`")
    head, tail = readme.split(start)[0], readme.split(end)[1]
    return f"{head}{start}\n{table}{end}{tail}"


def readme_figure() -> str:
    """The README's figure as SVG, out of the committed notebook; ValueError when that has no such figure."""
    chapter, name, _ = README_FIGURE
    path = paths.ROOT / "notebooks" / f"{chapter}.ipynb"
    for cell in nbformat.read(path, 4).cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell.outputs:
                if "image/svg+xml" in output.get("data", {}):
                    return output.data["image/svg+xml"]
    raise ValueError(f"{path}: no cell named {name} has an SVG output")
