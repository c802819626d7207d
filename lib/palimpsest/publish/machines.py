"""Where accepted values were computed, what pinned arithmetic costs, and what came of the drills, as tables."""

import csv
from collections import defaultdict
from statistics import median

from palimpsest import ledger
from palimpsest.data import drill_rows, manifest
from palimpsest.ledger import Claim
from palimpsest.runs import paths


def accepted(claims: list[Claim]) -> str:
    """One row for each accepted run."""
    head = ["| chapter | on | profile | minutes | machine | versions | commit |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*head, *dict.fromkeys(_where(c, c.record) for c in claims if c.record)])


def minutes(claims: list[Claim]) -> str:
    """What computing each paper's accepted values took, with the command that does it again."""
    head = ["| paper | command | minutes, when accepted | on |", "|---|---|---|---|"]
    return "\n".join([*head, *dict.fromkeys(_took(c, c.record) for c in claims if c.record)])


def _took(claim: Claim, record: dict) -> str:
    e = record["environment"]
    return f"| {claim.paper} | `{claim.command}` | {_minutes(record)} | {e['cores']} cores ({e['processor']}) |"


def _minutes(record: dict) -> str:
    return f"{record['runtime_s'] / 60:.1f}" if record["runtime_s"] else "not recorded"


def _where(claim: Claim, record: dict) -> str:
    """The row of an accepted run."""
    e = record["environment"]
    return (
        f"| {ledger.file_of(claim)} | {record['date']} | {claim.profile} | {_minutes(record)} "
        f"| {e['cores']} cores ({e['processor']}), {e['arithmetic']} arithmetic "
        f"| Python {e['python']}, torch {e['torch']} | `{e['commit']}` |"
    )


def pinning() -> str:
    """What the pinned arithmetic costs, from `data/bench/arithmetic.cpu.csv`: one piece of each chapter, run in turn
    with either arithmetic."""
    with manifest.verify("bench/arithmetic.cpu.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    parts = [
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
    return "\n".join(parts)


def doors() -> str:
    """How long each example of the page "Use it on a model of your own" took, from `data/bench/own_model.cpu.csv`."""
    name = "bench/own_model.cpu.csv"
    if not (paths.DATA / name).exists():
        return "Not measured; `palimpsest bench --only doors` does."
    with manifest.verify(name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    head = "Minutes of one core ({processor}); commit `{commit}`, {date}, by `palimpsest bench --only doors`."
    parts = [head.format(**rows[0]), "", "| way in | on | minutes |", "|---|---|---|"]
    return "\n".join(
        parts + [f"| {row['door']} | {row['on']} | {float(row['cpu_seconds']) / 60:.2f} |" for row in rows]
    )


def drilled() -> str:
    """What came of `make drills`, summed by drill, and the parts with something that is to be mended."""
    rows = drill_rows.read()
    if not rows:
        return "Not run."
    made = sorted({f"commit `{row.commit}`, {row.date}" for row in rows})
    parts = [
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
    return "\n".join(parts)


def _counts(rows: list[drill_rows.Row]) -> str:
    return " | ".join(f"{sum(getattr(row, name) for row in rows):,}" for name in drill_rows.COUNTED)
