"""What each chapter runs: the conditions, and the methods that meet there."""

from dataclasses import dataclass

from palimpsest.chapters.unlearning_quantised.arms import (
    FLOAT,
    HARDEST,
    METHODS,
    ONE_CLASS,
    RANDOM_10,
    RANDOM_30,
    RANDOM_50,
    SWEPT,
    VARIANTS,
    W2A2,
    W4A4,
    W4A8,
    W8A8,
    ForgetSet,
    Precision,
)
from palimpsest.chapters.unlearning_quantised.profiles import Setting


@dataclass(frozen=True)
class Condition:
    """A precision, a forget set, the methods that meet there, and the precision whose tuning they use."""

    precision: Precision
    forget_set: ForgetSet
    methods: tuple[str, ...]
    tuned_at: Precision = W4A4


def conditions(setting: Setting, chapter: str) -> list[Condition]:
    """What a chapter's claims need, as far as the setting's `extent` goes; both chapters need the headline."""
    if chapter == "oeu":
        return [Condition(W4A4, RANDOM_10, tuple(m for m in METHODS if m not in VARIANTS))]
    everything = setting.extent == "everything"
    found = [
        Condition(W4A4, RANDOM_10, tuple(METHODS)),
        Condition(FLOAT, RANDOM_10, SWEPT, tuned_at=FLOAT),
        *(Condition(precision, RANDOM_10, SWEPT[1:]) for precision in (W8A8, W2A2)),
        Condition(W4A4, RANDOM_30, tuple(METHODS) if everything else (*SWEPT, "SalUn", "SCRUB")),
        *(Condition(W4A4, chosen, ("random label", "Q-MUL", "OEU")) for chosen in (ONE_CLASS, HARDEST)),
    ]
    if everything:
        found += [Condition(W4A4, RANDOM_50, tuple(METHODS)), Condition(W4A8, RANDOM_10, SWEPT)]
    return found
