"""Neighbours of Q-MUL and OEU: rivals and stress tests of unlearning in classifiers.

Each step is cached by itself. The networks of chapters 2 and 3 are probed at their tuned values; all else happens in
the small worlds of `vision_worlds`, tuned by the same rule.
"""

from dataclasses import dataclass
from itertools import chain

import pandas as pd

from palimpsest import runs
from palimpsest.chapters.neighbours import vision_poison, vision_stress
from palimpsest.chapters.neighbours.vision_poison import KNOWN, corrected
from palimpsest.chapters.neighbours.vision_probes import probed
from palimpsest.chapters.neighbours.vision_spread import spread
from palimpsest.chapters.neighbours.vision_stress import PUBLISHED, measured, tried
from palimpsest.chapters.neighbours.vision_worlds import PROFILES, prepared
from palimpsest.chapters.shared.profiles import choose
from palimpsest.chapters.unlearning_quantised import experiment
from palimpsest.chapters.unlearning_quantised.arms import HEADLINE, REFERENCES

CENTRES = {
    "fine-tune": 0.052,
    "random label": 0.0052,
    "SCRUB": 0.0173,
    "Q-MUL": 0.03,
    "OEU": 0.03,
    "DMM": 0.03,
}
"""The last but one of the values that are tried: those of smallest gap in a pilot on worlds 900 to 909."""
TRIED = 4
PROBED = ("fine-tune", "random label", "Q-MUL", "OEU")
SPREAD = ("random label", "Q-MUL", "OEU", "DMM")
KINDS = ("random", "one class", "worst case")


@dataclass(frozen=True, eq=False)
class Results:
    """A row per arm and seed. probes: the networks of chapters 2 and 3 at their headline. worlds: the small worlds by
    "kind" of forget set; klom: over the networks of each. poison: by what was "known" of it. tuning: what was tried.
    All shares in [0, 1]."""

    probes: pd.DataFrame
    worlds: pd.DataFrame
    klom: pd.DataFrame
    poison: pd.DataFrame
    tuning: pd.DataFrame

    def column(self, table: str, name: str, method: str, **at: str) -> pd.Series:
        """One column of an arm by seed, shares in percent. ValueError for an arm that was not run."""
        rows = getattr(self, table)
        for key, wanted in ({"method": method} | at).items():
            rows = rows[rows[key] == wanted]
        if rows.empty:
            raise ValueError(f"method: got {method!r} at {at}, want one that {table} has")
        scale = 1 if name in ("gap", "klom", "cka_original", "cka_retrain") else 100
        return scale * rows.set_index("seed")[name].sort_index()


def around(centre: float) -> list[float]:
    """The values that are tried, a factor √3 apart, as chapters 2 and 3 do it."""
    return [float(f"{centre * 3 ** (k / 2):.3g}") for k in range(2 - TRIED, 2)]


def execute(profile: str) -> Results:
    """Train, tune, forget, measure. Raises ValueError for a profile that is not one of PROFILES."""
    setting = choose(profile, PROFILES)
    seeds = list(setting.seeds)
    runs.run_all(prepared, [{"profile": profile, "seed": seed} for seed in seeds], show="vision 1/4: worlds")
    jobs = [{"profile": profile, "method": m, "values": around(v)} for m, v in CENTRES.items()]
    tuning = _table(tried, jobs, "vision 2/4: tuning")
    values = {method: [own[seed] for seed in seeds] for (_, method), own in experiment.chosen(tuning, 1).items()}
    values |= dict.fromkeys(("original", "retrain", "retrain again"), [0.0] * len(seeds))
    below = values["fine-tune"]
    jobs = [{"profile": profile, "kind": kind, "values": below} for kind in KINDS[1:]]
    runs.run_all(vision_stress.settled, jobs, show="vision 3/4: other forget sets")
    runs.run_all(vision_poison.settled, [{"profile": profile}], show="vision 3/4: poisoned networks")
    jobs = [
        {"profile": profile, "kind": kind, "method": method, "values": values[method], "below": below}
        for kind in KINDS
        for method in ("original", "retrain", *PUBLISHED, *(("retrain again", "DMM") if kind == "random" else ()))
    ]
    worlds = _table(measured, jobs, "vision 3/4: forget sets")
    jobs = [
        {"profile": profile, "method": method, "values": values[method]}
        for method in ("original", "retrain again", *SPREAD)
    ]
    klom = _table(spread, jobs, "vision 3/4: distributions")
    jobs = [
        {"profile": profile, "known": known, "method": m, "values": values[m]}
        for known in KNOWN
        for m in ("original", "retrain", *PUBLISHED)
    ]
    poisons = _table(corrected, jobs, "vision 3/4: poison")
    return Results(_probes(setting.chapter), worlds, klom, poisons, tuning)


def _probes(chapter: str) -> pd.DataFrame:
    results = experiment.execute(chapter, "oeu")
    everyone = {seed: 0.0 for seed in results.values[HEADLINE[0], "OEU"]}
    chosen = {name: everyone for name in REFERENCES} | {m: results.values[HEADLINE[0], m] for m in PROBED}
    jobs = [
        {"profile": chapter, "method": method, "values": list(own.values()), "only": list(own)}
        for method, own in chosen.items()
    ]
    return _table(probed, jobs, "vision 4/4: probes")


def _table(function, jobs: list[dict], show: str) -> pd.DataFrame:
    return pd.DataFrame(chain.from_iterable(runs.run_all(function, jobs, show=show)))
