"""Where accepted values were computed, and what computing with pinned arithmetic costs, as tables."""

import csv
from collections import defaultdict
from statistics import median

from palimpsest import ledger
from palimpsest.data import manifest
from palimpsest.ledger import Claim


def accepted(claims: list[Claim]) -> str:
    """One row for each accepted run."""
    head = ["| chapter | on | profile | minutes | machine | versions | commit |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*head, *dict.fromkeys(_where(c, c.record) for c in claims if c.record)])


def _where(claim: Claim, record: dict) -> str:
    """The row of an accepted run."""
    e, runtime = record["environment"], record["runtime_s"]
    minutes = f"{runtime / 60:.1f}" if runtime else "not recorded"
    return (
        f"| {ledger.file_of(claim)} | {record['date']} | {claim.profile} | {minutes} "
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
