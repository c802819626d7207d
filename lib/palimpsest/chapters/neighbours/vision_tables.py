"""What the stress tests say of Q-MUL, OEU and their rivals. The rules were written before a number was seen.

separates: a test tells the original from Retrain where the 95 % interval of their difference within seeds excludes
zero; where it does not, the page says that the test cannot at this size, and no method is judged by it.

side: a method that loses at least `LEAST` points on the forget set "moves the last layer" where its head alone, on
the original's body, loses more than its body alone, under the original's head (95 % interval of the difference within
seeds above zero), and "moves the body" where that lies below zero; else "undecided". LEAST is two points, which is
two of the headline's hundred forget samples. Retrain, from the original's start, is asked the same.

nearer: a measure lies nearer to Retrain, or to the original, where the 95 % interval of its distance to the middle
between the two within seeds excludes zero; else "between".
"""

import pandas as pd

from palimpsest.chapters.neighbours.vision import KINDS, PROBED, SPREAD, Results
from palimpsest.chapters.neighbours.vision_poison import KNOWN
from palimpsest.chapters.neighbours.vision_stress import PUBLISHED
from palimpsest.chapters.shared.judging import level, show
from palimpsest.metrics.statistics import Estimate, estimate

LEAST = 2.0

TESTS = {
    "accuracy on the forget set": ("right", "%"),
    "linear probe": ("linear", "%"),
    "nearest neighbours": ("nearest", "%"),
    "CKA to Retrain": ("cka_retrain", ""),
}
"""Name in tables -> column and unit."""


def separation(results: Results, table: str, column: str, **at: str) -> Estimate:
    """The original minus Retrain within seeds."""
    return within(results, table, column, "original", "retrain", **at)


def within(results: Results, table: str, column: str, a: str, b: str, **at: str) -> Estimate:
    """Arm a minus arm b within seeds, over those that both have."""
    first, second = (results.column(table, column, name, **at) for name in (a, b))
    return estimate((first - second).dropna())


def separates(e: Estimate) -> str:
    """The rule of that name."""
    return "yes" if e.low > 0 or e.high < 0 else "not at this size"


def nearer(results: Results, table: str, column: str, method: str, **at: str) -> str:
    """The rule of that name; a dash where the test does not separate."""
    if separates(separation(results, table, column, **at)) != "yes":
        return "–"
    own, first, last = (results.column(table, column, name, **at) for name in (method, "original", "retrain"))
    away = estimate(((own - (first + last) / 2) / (first - last).mean()).dropna())
    return "original" if away.low > 0 else "Retrain" if away.high < 0 else "between"


def side(results: Results, table: str, method: str, **at: str) -> str:
    """The rule of that name."""
    lost = within(results, table, "right", "original", method, **at)
    if lost.mean < LEAST:
        return "loses less than two points"
    body, head = (results.column(table, name, method, **at) for name in ("body", "head"))
    apart = estimate((body - head).dropna())
    return "the last layer" if apart.low > 0 else "the body" if apart.high < 0 else "undecided"


def tests(results: Results) -> pd.DataFrame:
    """Does each test tell the original from Retrain? In the networks of chapters 2 and 3, and in small worlds."""
    found = [("W4A4, random tenth", "probes", {})] + [(f"worlds, {kind}", "worlds", {"kind": kind}) for kind in KINDS]
    rows = []
    for where, table, at in found:
        for name, (column, unit) in TESTS.items():
            e = separation(results, table, column, **at)
            rows.append({"networks": where, "test": name, "original − Retrain": show(e, unit, 2 if not unit else 1)})
            rows[-1]["separates"] = separates(e)
    e = within(results, "klom", "klom", "original", "retrain again")
    rows.append({"networks": "worlds, random", "test": "KLoM", "original − Retrain": show(e, "nats", 2)})
    rows[-1]["separates"] = separates(e)
    for known in KNOWN:
        e = separation(results, "poison", "corrected", known=known)
        rows.append({"networks": f"worlds, {known} of the poison known", "test": "corrected accuracy"})
        rows[-1] |= {"original − Retrain": show(e, "%"), "separates": separates(e)}
    return pd.DataFrame(rows)


def where(results: Results, table: str = "probes", **at: str) -> pd.DataFrame:
    """Which methods merely move the last layer?"""
    methods = PROBED if table == "probes" else PUBLISHED
    rows = []
    for method in ("original", "retrain", "retrain again", *methods):
        if method == "retrain again" and at.get("kind", "random") != "random":
            continue
        column = {name: estimate(results.column(table, name, method, **at)) for name in ("right", "head", "body")}
        row = {"network": method, "right": level(column["right"])}
        row |= {"its head alone": level(column["head"]), "its body alone": level(column["body"])}
        if method in (*methods, "retrain"):
            row["moves"] = side(results, table, method, **at)
        for name, (measure, unit) in list(TESTS.items())[1:]:
            e = estimate(results.column(table, measure, method, **at))
            row[name] = level(e) if unit else f"{e.mean:.3f}"
            if method in methods and unit:
                row[name] += f", {nearer(results, table, measure, method, **at)}"
            elif method in methods:
                row["minus the original's"] = show(within(results, table, measure, method, "original", **at), "", 3)
        rows.append(row)
    return pd.DataFrame(rows)


def gaps(results: Results) -> pd.DataFrame:
    """The average gap to Retrain by kind of forget set, in points, and the worst case minus the random one."""
    rows = []
    for method in ("original", *PUBLISHED, "DMM", "retrain again"):
        kinds = KINDS if method in ("original", *PUBLISHED) else KINDS[:1]
        row = {"network": method}
        row |= {kind: level(estimate(results.column("worlds", "gap", method, kind=kind)), "points") for kind in kinds}
        if len(kinds) > 1:
            worst, random = (results.column("worlds", "gap", method, kind=k) for k in ("worst case", "random"))
            row["worst − random"] = show(estimate(worst - random))
        if method in (*SPREAD, "original", "retrain again"):
            row["KLoM, nats"] = level(estimate(results.column("klom", "klom", method)), "")
        rows.append(row)
    return pd.DataFrame(rows)


def corrections(results: Results) -> pd.DataFrame:
    """Accuracy on triggered test images, told half of the poison and all of it, and what the other half is worth."""
    rows = []
    for method in ("original", "retrain", *PUBLISHED):
        half, whole = (results.column("poison", "corrected", method, known=known) for known in KNOWN)
        row = {"network": method, "half known": level(estimate(half)), "all known": level(estimate(whole))}
        if method != "original":
            row["all − half"] = show(estimate(whole - half))
            row["half − original"] = show(within(results, "poison", "corrected", method, "original", known="half"))
        rows.append(
            row | {"clean images, half": level(estimate(results.column("poison", "TA", method, known="half")))}
        )
    return pd.DataFrame(rows)
