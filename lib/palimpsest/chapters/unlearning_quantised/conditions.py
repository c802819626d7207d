"""What each chapter runs: the conditions, and the methods that meet there."""

from dataclasses import dataclass

from palimpsest.chapters.unlearning_quantised.arms import (
    ELSEWHERE,
    FLOAT,
    HARDEST,
    IN_FLOAT,
    METHODS,
    ONE_CLASS,
    RANDOM_10,
    RANDOM_30,
    RANDOM_50,
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
    """A precision, a forget set, and the methods that meet there, over all seeds or `only` the first so many.

    Where `tuned_here` every method tries its grid; elsewhere it takes the values that it was tuned to at W4A4 on a
    random tenth.
    """

    precision: Precision
    forget_set: ForgetSet
    methods: tuple[str, ...]
    tuned_here: bool = False
    only: int | None = None


def conditions(setting: Setting, chapter: str) -> list[Condition]:
    """What a chapter's claims need, as far as the setting's `extent` goes; both chapters need the headline."""
    headline = tuple(METHODS) if chapter == "qmul" else tuple(m for m in METHODS if m not in VARIANTS)
    found = [Condition(W4A4, RANDOM_10, headline, tuned_here=True)]
    if chapter == "oeu":
        return found
    half = len(setting.seeds) // 2 if setting.extent == "claims" and len(setting.seeds) > 3 else None
    found.append(Condition(FLOAT, RANDOM_10, IN_FLOAT, tuned_here=True))
    found += [Condition(W4A4, chosen, ELSEWHERE, only=half) for chosen in (RANDOM_30, ONE_CLASS, HARDEST)]
    if setting.extent == "everything":
        found += [Condition(precision, RANDOM_10, tuple(METHODS), tuned_here=True) for precision in (W8A8, W2A2)]
        found += [Condition(W4A4, RANDOM_50, tuple(METHODS)), Condition(W4A8, RANDOM_10, tuple(METHODS))]
    return found
