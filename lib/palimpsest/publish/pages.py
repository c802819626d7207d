"""Pages that the ledger renders: the claims table (front page and README), the results and the status page."""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

from palimpsest import ledger
from palimpsest.data import manifest
from palimpsest.drills import record
from palimpsest.ledger import Claim
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic
from palimpsest.verdicts import VERDICTS, Quantity

MARK = {"supported": "●", "contradicted": "○", "no effect": "=", "inconclusive": "?", "not run": "–"}
README_MARKERS = ("<!-- claims -->", "<!-- /claims -->")
README_FIGURE = ("04_jscds", "fig-jscds-differences", "jscds_differences.svg")
WHOSE = {"paper": "The papers' claims", "ours": "Claims of ours", "construction": "Guarantees by construction"}


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


def claims_table(claims: list[Claim], link: Callable[[Claim], str]) -> str:
    """One row per claim, as a Markdown table. `link` turns a claim into the text of its first cell."""
    rows = ["| claim | states | verdict | measured, 95 % interval | seeds |", "|---|---|---|---|---|"]
    for c in claims:
        n = "–" if c.verdict == "not run" else c.judgement.measured.n if c.judgement.measured.n > 1 else "counted"
        # A blank that no line breaks at keeps the mark beside its word.
        rows.append(
            f"| {link(c)} | {c.statement} | {MARK[c.verdict]}\N{NO-BREAK SPACE}{c.verdict} | {measured(c)} | {n} |"
        )
    return "\n".join(rows) + "\n"


def rule(quantity: Quantity) -> str:
    """What a quantity must be for its claim to hold: `wanted above 5 %, margin 1 %`."""
    if quantity.wants == "zero":
        return "wanted: none"
    unit = f" {quantity.unit}".rstrip()
    if quantity.wants == "within":
        return f"wanted within {quantity.margin:g} of {quantity.bar:g}{unit}"
    return f"wanted {quantity.wants} {quantity.bar:g}{unit}, margin {quantity.margin:g}{unit}"


def results_page(claims: list[Claim]) -> str:
    """Every claim with both settings, the rule, the measured value and the reason."""
    parts = [
        "# Results",
        "",
        tally(claims),
        "",
        "Every claim with the quantity that decides it, what was measured, and why. {doc}`index` says how a verdict "
        "follows.",
        "",
    ]
    for paper in dict.fromkeys(c.paper for c in claims):
        parts += [f"## {paper}", ""]
        for c in (c for c in claims if c.paper == paper):
            notebook = c.cell.partition("#")[0]
            together = [f"  - together with {q.quantity}: {rule(q)}." for q in list(c.quantities.values())[1:]]
            setting = c.record["setting"] if c.record else "not run"
            parts += [
                f"({c.id})=",
                f"### {c.id}",
                "",
                f"**{c.statement}** {MARK[c.verdict]} *{c.verdict}*",
                "",
                *_measured(c),
                f"- *Quantity*: {c.quantity}: {rule(c.quantities[c.id])} ({c.margin_reason}).",
                *together,
                f"- *Power*: {_power(c)}",
                f"- *Paper*: {c.paper_value} ({c.locus}). Setting: {c.paper_setting}.",
                f"- *Ours*: {setting}; profile `{c.profile}`, kind *{c.kind}*, by {c.by}.",
                f"- *Cell*: {{doc}}`notebooks/{notebook}`, tag `{c.cell.partition('#')[2]}`. Again: `{c.command}`.",
                "",
            ]
    return "\n".join(parts)


def _measured(claim: Claim) -> list[str]:
    """What was measured, and why."""
    if claim.judgement is None:
        return ["- *Measured*: –.", "- *Why*: Not run."]
    e = claim.judgement.measured
    spread = f"sd {e.sd:.2f}, {e.n} seeds" if e.n > 1 else "counted, no spread"
    name = "Measured, out of the claim's range" if claim.verdict == "not run" else "Measured"
    return [f"- *{name}*: {ledger.text(e, claim.unit)} ({spread}).", f"- *Why*: {claim.judgement.why}"]


def _power(claim: Claim) -> str:
    """How many seeds would decide, beside how many there are."""
    if claim.judgement is None:
        return "not known before a run."
    if claim.power is None:
        return "a count; nothing is drawn."
    return (
        f"{claim.power} seeds would find an effect of the margin in four of five repetitions, by the spread measured "
        f"here; {claim.judgement.measured.n} were run."
    )


def status_page(claims: list[Claim]) -> str:
    """What was accepted, and on which machine."""
    parts = [
        "# Status",
        "",
        tally(claims),
        "",
        "The accepted values below are what a rerun is compared with, in every printed digit. Another digit or "
        "verdict fails the build; so does a hand-edited file, because every file is checked against its SHA-256.",
        "",
        "Processors round differently where they may choose their routines, and training amplifies that until the "
        "networks are others. So the chapters compute with routines that every x86-64 processor with AVX2 has. "
        "On machines of another kind a value must lie within the accepted interval instead.",
        "",
        "| claim | verdict | accepted | on |",
        "|---|---|---|---|",
    ]
    for c in claims:
        when = c.record["date"] if c.record else "–"
        parts.append(f"| {c.id} | {c.verdict} | {measured(c)} | {when} |")
    parts += [
        "",
        "## Where the accepted values were computed",
        "",
        "| chapter | profile | minutes | cores | arithmetic | python | torch | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    parts += dict.fromkeys(_where(c, c.record) for c in claims if c.record)
    parts += pinning()
    parts += drilled()
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


def pinning() -> list[str]:
    """What the pinned arithmetic costs, from `data/bench/arithmetic.cpu.csv`: one piece of each chapter, run in turn
    with either arithmetic."""
    with manifest.verify("bench/arithmetic.cpu.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    parts = [
        "",
        "## What the pinned arithmetic costs",
        "",
        f"Seconds of one core for one piece of each chapter, with {rows[0]['cpu']}, medians of runs that took "
        f"turns; commit `{rows[0]['commit']}`, {rows[0]['date']}.",
        "",
        "| chapter | piece | runs | pinned, s | native, s | ratio |",
        "|---|---|---|---|---|---|",
    ]
    seconds = defaultdict(lambda: defaultdict(list))
    for row in rows:
        seconds[row["chapter"], row["piece"]][row["arithmetic"]].append(float(row["cpu_seconds"]))
    for (chapter, piece), found in seconds.items():
        pinned, native = median(found["pinned"]), median(found["native"])
        ratio = f"{len(found['pinned'])} | {pinned:.1f} | {native:.1f} | {pinned / native:.2f}"
        parts.append(f"| {chapter} | {piece} | {ratio} |")
    return parts


def drilled() -> list[str]:
    """What came of `make drills`, summed by drill, and the parts with something that is to be mended; nothing where
    no drill was recorded."""
    rows = record.read()
    if not rows:
        return []
    made = sorted({f"commit `{row.commit}`, {row.date}" for row in rows})
    parts = [
        "",
        "## Drills",
        "",
        f"What `make drills` tried at random, seed {rows[0].seed}, with {rows[0].cpu}; {'; '.join(made)}. *inputs*: "
        "arguments of kernels and public functions, most of them spoilt; *kills*: of running processes; *changes*: "
        "of single bytes in files. Silent is another value without an error, foreign an error that names no argument "
        "or file of ours, lost a result that differs after a kill, or half a file.",
        "",
        "| drill | part | tried | as it should be | caught | silent | foreign | lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for drill in dict.fromkeys(row.drill for row in rows):
        mine = [row for row in rows if row.drill == drill]
        parts.append(f"| {drill} | all {len(mine)} | {_counts(mine)} |")
        apart = [row for row in mine if drill != "inputs" or row.silent or row.foreign]
        parts += [f"| {drill} | {row.part} | {_counts([row])} |" for row in apart]
    return parts


def _counts(rows: list[record.Row]) -> str:
    return " | ".join(f"{sum(getattr(row, name) for row in rows):,}" for name in record.COUNTED)


def _where(claim: Claim, record: dict) -> str:
    """The row of an accepted run in the table of machines."""
    e, runtime = record["environment"], record["runtime_s"]
    minutes = f"{runtime / 60:.1f}" if runtime else "not recorded"
    return (
        f"| {ledger.file_of(claim)} | {claim.profile} | {minutes} | {e['cores']} ({e['processor']}) "
        f"| {e['arithmetic']} | {e['python']} | {e['torch']} | `{e['commit']}` |"
    )


def write() -> list[Path]:
    """Render the pages of the site from the fresh results, and return their paths."""
    accepted, fresh = ledger.load(), ledger.load(ledger.FRESH)
    folder = paths.BUILD / "generated"
    table = f"{tally(fresh)}\n\n" + claims_table(fresh, lambda c: f"[{c.id}](#{c.id})")
    pages = {"claims_table.md": table, "results.md": results_page(fresh), "status.md": status_page(accepted)}
    for name, text in pages.items():
        write_atomic(folder / name, lambda file, text=text: Path(file).write_text(text, encoding="utf-8"))
    return [folder / name for name in pages]


def readme_with_table(readme: str) -> str:
    """`readme` with the accepted claims between its two markers; ValueError when a marker is missing."""
    start, end = README_MARKERS
    if readme.count(start) != 1 or readme.count(end) != 1:
        raise ValueError(f"README.md: want exactly one {start} and one {end}")
    claims = ledger.load()
    table = f"{tally(claims)}\n\n" + claims_table(claims, lambda c: f"`{c.id}`")
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
