"""The claims in vision, judged: where the forgetting sits, whether distributions are alike, half of a poison, and the
worst case."""

from collections.abc import Iterable

import pandas as pd

from palimpsest.chapters.neighbours.vision import Results
from palimpsest.chapters.neighbours.vision_stress import PUBLISHED
from palimpsest.chapters.neighbours.vision_tables import within
from palimpsest.chapters.shared.judging import level, listed, strongest
from palimpsest.ledger import Judgement, judge
from palimpsest.metrics.statistics import Estimate, estimate

OURS = ("Q-MUL", "OEU")
"""The methods of chapters 2 and 3."""
WORLDS = "worlds of 300 pictures, networks of 4 thousand weights"
SIZES = {
    "neighbours-layer": "chapter 2's networks, W4A4, a random tenth of 1,000 pictures forgotten",
    "neighbours-class": WORLDS,
    "neighbours-matching": f"{WORLDS}, 32 datamodels",
    "neighbours-spread": WORLDS,
    "neighbours-poison": WORLDS,
    "neighbours-half": WORLDS,
    "neighbours-worst": WORLDS,
}


def _sides(results: Results, table: str, methods: tuple[str, ...], **at: str) -> dict[str, Estimate]:
    """The accuracy that a network's body keeps, minus what its last layer keeps, by method."""
    found = {m: [results.column(table, name, m, **at) for name in ("body", "head")] for m in methods}
    return {m: estimate((body - head).dropna()) for m, (body, head) in found.items()}


def layer(results: Results) -> Judgement:
    found = _sides(results, "probes", OURS)
    rest = _sides(results, "probes", ("fine-tune", "random label", "retrain"))
    why = f"Body minus last layer: {listed(found)}. Beside them: {listed(rest)}."
    return judge("neighbours-layer", found[strongest(found)], why, family=found)


def one_class(results: Results) -> Judgement:
    found = _sides(results, "worlds", OURS, kind="one class")
    rest = _sides(results, "worlds", ("retrain", "random label", "SCRUB"), kind="one class")
    why = f"Body minus last layer: {listed(found)}. Beside them, Retrain never met the class: {listed(rest)}."
    return judge("neighbours-class", found[strongest(found)], why, family=found)


def matching(results: Results) -> Judgement:
    found = {m: within(results, "klom", "klom", m, "DMM") for m in OURS}
    why = f"KLoM: {_klom(results, 'original', 'random label', *OURS, 'DMM', 'retrain again')}."
    return judge("neighbours-matching", found[strongest(found)], why, family=found)


def spread(results: Results) -> Judgement:
    gaps = {m: results.column("worlds", "gap", m, kind="random") for m in ("original", "random label")}
    rows = "; ".join(f"{m} {level(estimate(gap), 'points')}" for m, gap in gaps.items())
    why = f"Average gap to Retrain: {rows}. KLoM: {_klom(results, 'original', 'random label', 'Q-MUL')}."
    return judge("neighbours-spread", within(results, "klom", "klom", "random label", "original"), why)


def _corrected(results: Results, method: str) -> list[pd.Series]:
    return [results.column("poison", "corrected", method, known=known) for known in ("half", "all")]


def _worth(results: Results, method: str) -> Estimate:
    """What knowing the other half of the poison is worth."""
    half, whole = _corrected(results, method)
    return estimate(whole - half)


def poison(results: Results) -> Judgement:
    half, whole = (level(estimate(found)) for found in _corrected(results, "retrain"))
    start = level(estimate(_corrected(results, "original")[0]))
    why = (
        f"Triggered pictures called by their own label: by the poisoned original {start}; by Retrain without half of "
        f"the poison {half}, without all of it {whole}."
    )
    return judge("neighbours-poison", _worth(results, "retrain"), why)


def half_known(results: Results) -> Judgement:
    found = {m: _worth(results, m) for m in OURS}
    told = {m: level(estimate(_corrected(results, m)[0])) for m in ("retrain", *PUBLISHED)}
    rows = "; ".join(f"{m} {share}" for m, share in told.items())
    why = f"All known minus half: {listed(found)}. Told half: {rows}."
    return judge("neighbours-half", found[strongest(found)], why, family=found)


def worst(results: Results) -> Judgement:
    gaps = {
        m: [results.column("worlds", "gap", m, kind=kind) for kind in ("worst case", "random")] for m in PUBLISHED
    }
    found = {m: estimate(hard - random) for m, (hard, random) in gaps.items()}
    return judge(
        "neighbours-worst", found[strongest(found)], f"Worst case minus random: {listed(found)}.", family=found
    )


def _klom(results: Results, *methods: str) -> str:
    return "; ".join(f"{m} {level(estimate(results.column('klom', 'klom', m)), 'nats')}" for m in methods)


def judgements(results: Results) -> Iterable[Judgement]:
    """All seven."""
    return [rule(results) for rule in (layer, one_class, matching, spread, poison, half_known, worst)]
