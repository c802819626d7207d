"""What the neighbours of chapters 2, 3 and 5 say, and what held here, in the grammar of verdicts.

Quantities and wanted sides follow from the neighbours' abstracts. Margins are the smallest differences that a reader
would act on; they were set after a first run, and tell "no effect" from "inconclusive" alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from palimpsest.chapters.neighbours import decoding_tables, vision_tables
from palimpsest.chapters.neighbours.decoding import Results as Decoded
from palimpsest.chapters.neighbours.vision import Results as Seen
from palimpsest.chapters.neighbours.vision_stress import PUBLISHED
from palimpsest.chapters.shared.judging import show
from palimpsest.metrics.statistics import Estimate, estimate
from palimpsest.verdicts import Quantity, decide

PAPERS = ("Q-MUL", "OEU")
CHAPTER, WORLDS, PAIR = "W4A4, chapters 2 and 3, 1,000 pictures", "worlds, 300 pictures", "the pair of chapter 5"


class Said(NamedTuple):
    """What a neighbour says; the quantity, and its estimate by the arm that it is taken of."""

    neighbour: str
    says: str
    quantity: Quantity
    found: Callable[..., dict[str, Estimate]]
    size: str


def _points(quantity: str) -> Quantity:
    return Quantity(quantity, "points", "above", 2.0)


def _sides(table: str, **at: str) -> Callable[[Seen], dict[str, Estimate]]:
    """The accuracy that a network's body keeps, minus what its last layer keeps, of the two papers' methods."""

    def found(seen: Seen) -> dict[str, Estimate]:
        parts = {m: [seen.column(table, name, m, **at) for name in ("body", "head")] for m in PAPERS}
        return {m: estimate((body - head).dropna()) for m, (body, head) in parts.items()}

    return found


def _poison(method: str) -> Callable[[Seen], dict[str, Estimate]]:
    def found(seen: Seen) -> dict[str, Estimate]:
        half, whole = (seen.column("poison", "corrected", method, known=known) for known in ("half", "all"))
        return {method: estimate(whole - half)}

    return found


def _worst(seen: Seen) -> dict[str, Estimate]:
    gaps = {m: [seen.column("worlds", "gap", m, kind=kind) for kind in ("worst case", "random")] for m in PUBLISHED}
    return {m: estimate(worst - random) for m, (worst, random) in gaps.items()}


VISION = (
    Said(
        *("Are we truly forgetting?", "methods merely change the last layer"),
        _points("accuracy kept by the body minus by the last layer"),
        *(_sides("probes"), CHAPTER + ", a random tenth forgotten"),
    ),
    Said(
        *("Are we truly forgetting?", "the same, of a class"),
        _points("accuracy kept by the body minus by the last layer"),
        *(_sides("worlds", kind="one class"), WORLDS),
    ),
    Said(
        *("datamodel matching", "nearer to Retrain than existing methods"),
        Quantity("KLoM of the others minus datamodel matching's", "nats", "above", 0.5),
        lambda seen: {m: vision_tables.within(seen, "klom", "klom", m, "DMM") for m in PAPERS},
        WORLDS + ", 32 datamodels",
    ),
    *(
        Said(
            *("corrective unlearning", f"most of the poison must be known: {method}"),
            _points("corrected accuracy, all known minus half"),
            *(_poison(method), WORLDS),
        )
        for method in ("retrain", *PAPERS, "SSD")
    ),
    Said(
        *("Challenging forgets", "sets chosen by the bilevel rule are harder to forget"),
        _points("gap to Retrain, worst case minus random"),
        *(_worst, WORLDS),
    ),
)

DECODING = (
    Said(
        *("ADED", "tri-grams approximate the target"),
        Quantity("accepted drafts, minus those of single tokens in the same tree", "", "above", 0.1),
        lambda drafted: {
            "trigrams": decoding_tables.difference(drafted, "trigrams, ADED's tree", "recycling, ADED's tree", "tau")
        },
        PAIR,
    ),
    Said(
        *("Superposed Decoding", "many drafts for one pass"),
        Quantity("cost per token minus SAGE's", "", "below", 0.02),
        lambda drafted: {
            "superposed": decoding_tables.difference(drafted, "superposed without n-grams, SAGE", "SAGE", "cost")
        },
        PAIR,
    ),
    Said(
        *("layer skipping", "the target without half of its layers is a fast model"),
        Quantity("cost per token", "", "below", 0.02, bar=1.0),
        lambda drafted: {"skipping": estimate(drafted.by_seed("skipping 2×, SAGE", "cost"))},
        PAIR + ", nothing trained",
    ),
    Said(
        *("entropy adaptive decoding", "quality is kept"),
        Quantity("true statements minus the target's", "points", "within", 5.0),
        lambda drafted: {
            f"{threshold:g} bits": estimate(
                100 * (part["true"] - part["true of target"]).groupby(part.seed).mean().dropna()
            )
            for threshold, part in drafted.lossy.groupby("threshold")
        },
        PAIR,
    ),
)


def held(results: Seen | Decoded) -> pd.DataFrame:
    """Neighbour, what it says, what held here, with the figures, and at which size."""
    rows = []
    for one in VISION if isinstance(results, Seen) else DECODING:
        found = one.found(results)
        verdict, _ = decide([(one.quantity, e) for e in found.values()])
        digits = 1 if one.quantity.unit == "points" else 2
        figures = "; ".join(f"{name} {show(e, one.quantity.unit, digits)}" for name, e in found.items())
        rows.append(
            {
                "neighbour": one.neighbour,
                "what it says": one.says,
                "what held here": verdict,
                "measured": f"{one.quantity.quantity}: {figures}",
                "size": one.size,
            }
        )
    return pd.DataFrame(rows)
