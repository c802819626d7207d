"""What the two unlearning chapters run: precisions, forget sets, and the methods that meet there."""

from dataclasses import dataclass

from palimpsest.chapters.unlearning_quantised.cohort import FORGET_SETS
from palimpsest.unlearning.vision import METHODS

HEADLINE = ("W4A4", "random 10 %")
TUNED_ON = "random 10 %"
VARIANTS = ("similar, w_f = 0.03", "similar, w_f = 0.1", "similar, w_f = 0.3", "Q-MUL (official quirks)")
"""Parts of Q-MUL that its own chapter alone takes apart."""

SWEPT = ("fine-tune", "random label", "RL + AGR", "similar labels", "Q-MUL", "OEU")
"""The methods that run in float too, all but the first of them at every precision; at the headline all do."""

ON_CPU = ("fine-tune", "random label", "similar labels", "RL + AGR", "SalUn", "Q-MUL", "OEU")
"""The methods of profile `full-cpu`; the two halves of Q-MUL are there to tell which of them does what it does."""


@dataclass(frozen=True)
class Condition:
    """A precision, a forget set, the methods that meet there, and the precision whose tuning they use.

    Tuning is always on a random 10 %.
    """

    precision: str
    forget_set: str
    methods: tuple[str, ...]
    tuned_at: str = "W4A4"


def conditions(profile: str, chapter: str) -> list[Condition]:
    """What a chapter's claims need; both need the headline. Profile `full-cpu` is the headline alone."""
    if profile == "full-cpu":
        return [Condition(*HEADLINE, ON_CPU)]
    if chapter == "oeu":
        return [Condition(*HEADLINE, tuple(m for m in METHODS if m not in VARIANTS))]
    found = [
        Condition(*HEADLINE, tuple(METHODS)),
        Condition("float", "random 10 %", SWEPT, tuned_at="float"),
        *(Condition(precision, "random 10 %", SWEPT[1:]) for precision in ("W8A8", "W2A2")),
        Condition("W4A4", "random 30 %", (*SWEPT, "SalUn", "SCRUB")),
        *(Condition("W4A4", kind, ("random label", "Q-MUL", "OEU")) for kind in FORGET_SETS[3:]),
    ]
    if profile.startswith("full"):
        found += [Condition("W4A4", f"random {share} %", tuple(METHODS)) for share in (30, 50)]
        found += [Condition("W4A8", "random 10 %", SWEPT)]
    return found
