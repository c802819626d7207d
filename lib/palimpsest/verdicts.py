"""The grammar of verdicts: how intervals, the sign that a claim wants and a margin become one of five words.

A claim names one quantity, or several that must hold together. Each has a `bar`, the side of it that the claim
`wants`, and a `margin`: the smallest distance from the bar that a user would notice.

- **supported**: the 95 % interval of every quantity lies on the wanted side of its bar, and not so near to it that
  the two one-sided tests below find nothing. Nothing is corrected here: a claim that needs all of its parts errs in
  at most 5 % of cases if each part does (Berger 1982, the intersection-union test).
- **contradicted**: the interval of one quantity lies on the other side, corrected by Holm over all of them.
- **no effect**: the 90 % interval of one quantity lies within ± margin of its bar (two one-sided tests, Schuirmann
  1987), corrected in the same way.
- **inconclusive**: none of these.
- **not run**: out of our range.

A quantity that wants to be `within` is supported by the two one-sided tests and contradicted by an interval outside
of the margin. One that wants to be `zero` is a count: a single one contradicts it.
"""

import math
from dataclasses import dataclass

from palimpsest.metrics.statistics import Estimate, holm_adjusted, p_against, p_equivalent

VERDICTS = ("supported", "contradicted", "no effect", "inconclusive", "not run")
WANTS = ("above", "below", "within", "zero")
LEVEL = 0.05


@dataclass(frozen=True)
class Quantity:
    """What a claim is judged by, in words; `unit`, `bar` and `margin` are in the unit of its estimates."""

    quantity: str
    unit: str
    wants: str
    margin: float
    bar: float = 0.0

    def __post_init__(self):
        if self.wants not in WANTS:
            raise ValueError(f"wants of {self.quantity!r}: got {self.wants!r}, want one of {WANTS}")
        if not (math.isfinite(self.margin) and self.margin >= 0 and (self.margin > 0) == (self.wants != "zero")):
            raise ValueError(
                f"margin of {self.quantity!r}: got {self.margin!r}, want a number above 0, the smallest effect that "
                "matters; 0 for a count that must be zero"
            )

    def evidence(self, e: Estimate) -> tuple[float, float, float]:
        """p values for the claim, against it, and for no effect; 1 where the estimate does not point there."""
        if self.wants == "zero":
            return (0.0, 1.0, 1.0) if e.mean == e.sd == 0 else (1.0, 0.0, 1.0)
        equivalent = p_equivalent(e, self.bar, self.margin)
        if self.wants == "within":
            nearer = self.bar + math.copysign(self.margin, e.mean - self.bar)
            outside = abs(e.mean - self.bar) > self.margin
            return equivalent, p_against(e, nearer) if outside else 1.0, 1.0
        p, wanted = p_against(e, self.bar), (e.mean > self.bar) == (self.wants == "above")
        small = equivalent <= LEVEL
        return (p if wanted and not small else 1.0), (p if not wanted and not small else 1.0), equivalent


def decide(parts: list[tuple[Quantity, Estimate]]) -> tuple[str, float]:
    """The verdict on quantities that must hold together, and the p value that decided it.

    An inconclusive verdict has the smallest of the three p values. Raises ValueError without a part.
    """
    if not parts:
        raise ValueError("parts: got none, want at least one quantity with its estimate")
    supports, contradicts, nothing = zip(*(quantity.evidence(e) for quantity, e in parts), strict=True)
    found = {
        "supported": max(supports),
        "contradicted": min(holm_adjusted(contradicts)),
        "no effect": min(holm_adjusted(nothing)),
    }
    for verdict, p in found.items():
        if p <= LEVEL:
            return verdict, p
    return "inconclusive", min(found.values())


def survivors(decided: dict[str, float]) -> set[str]:
    """Of the claims of one paper by their deciding p values, those that keep their verdict under Holm's procedure."""
    adjusted = holm_adjusted(list(decided.values()))
    return {name for name, p in zip(decided, adjusted, strict=True) if p <= LEVEL}
