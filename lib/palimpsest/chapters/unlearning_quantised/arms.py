"""The arms of the two unlearning chapters: precisions, forget sets, and the methods with their settings.

They are named here and not read off the library's registries, so that what is registered there changes no chapter.
"""

from dataclasses import dataclass
from typing import Literal

from palimpsest.unlearning.vision import (
    LAF,
    OEU,
    SSD,
    BadTeacher,
    BoundaryShrink,
    FineTune,
    GradientAscent,
    Influence,
    L1Sparse,
    Method,
    NegGradPlus,
    QMul,
    RandomLabel,
    SalUn,
    Scrub,
)


@dataclass(frozen=True)
class Precision:
    """`bits` of weights and activations in all layers but the first and the last; None is the float network."""

    bits: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return "W{}A{}".format(*self.bits) if self.bits else "float"


FLOAT, W8A8, W4A8, W4A4, W2A2 = (Precision(bits) for bits in (None, (8, 8), (4, 8), (4, 4), (2, 2)))
PRECISIONS = {precision.name: precision for precision in (FLOAT, W8A8, W4A8, W4A4, W2A2)}
"""Name in rows and tables -> precision."""


@dataclass(frozen=True)
class ForgetSet:
    """What is to be forgotten: a `share` of the samples, drawn at random or the hardest ones, or a whole class, whose
    share is what the class has."""

    kind: Literal["random", "hardest", "class"]
    share: float | None = None

    @property
    def name(self) -> str:
        return "one class" if self.kind == "class" else f"{self.kind} {round(100 * self.share)} %"


RANDOM_5, RANDOM_10, RANDOM_30, RANDOM_50 = (ForgetSet("random", share) for share in (0.05, 0.1, 0.3, 0.5))
ONE_CLASS, HARDEST = ForgetSet("class"), ForgetSet("hardest", 0.1)
FORGET_SETS = {chosen.name: chosen for chosen in (RANDOM_5, RANDOM_10, RANDOM_30, RANDOM_50, ONE_CLASS, HARDEST)}
"""Name in rows and tables -> forget set."""

TUNED_ON = RANDOM_10
"""Every method is tuned on it, whatever it then is to forget."""

HEADLINE = (W4A4.name, RANDOM_10.name)
"""Where all methods meet, as rows name it."""

CONSTANTS: dict[str, Method] = {
    "similar, w_f = 0.03": QMul(weights=0.03),
    "similar, w_f = 0.1": QMul(weights=0.1),
    "similar, w_f = 0.3": QMul(weights=0.3),
}
"""Q-MUL with a constant weight of the forget set in place of the adaptive one."""

METHODS: dict[str, Method] = {
    "fine-tune": FineTune(),
    "gradient ascent": GradientAscent(),
    "NegGrad+": NegGradPlus(),
    "random label": RandomLabel(),
    "l1-sparse": L1Sparse(),
    "SalUn": SalUn(),
    "SCRUB": Scrub(),
    "Bad Teacher": BadTeacher(),
    "SSD": SSD(),
    "influence": Influence(),
    "boundary shrink": BoundaryShrink(),
    "LAF": LAF(),
    "Q-MUL": QMul(),
    "similar labels": QMul(weights=None),
    "RL + AGR": QMul(labels="random"),
    **CONSTANTS,
    "Q-MUL (official quirks)": QMul(official_quirks=True),
    "OEU": OEU(),
    "entropy only": OEU(direction="none"),
    "projection only": OEU(loss="random-label"),
    "PCGrad": OEU(direction="pcgrad"),
    "random direction": OEU(direction="random"),
}
"""Name in rows and tables -> the method with its settings."""

BASELINES = (
    *("fine-tune", "gradient ascent", "NegGrad+", "random label", "l1-sparse", "SalUn", "SCRUB", "Bad Teacher"),
    *("SSD", "influence", "boundary shrink", "LAF"),
)
"""Published methods that are neither of the two papers'."""

LABEL_METHODS = ("random label", "SalUn", "Q-MUL")
"""Methods that train the forget set on wrong labels."""

VARIANTS = (*CONSTANTS, "Q-MUL (official quirks)")
"""Parts of Q-MUL that its own chapter alone takes apart."""

SWEEP = tuple(precision.name for precision in (FLOAT, W8A8, W4A4, W2A2))
"""The precisions along which Q-MUL's claims compare."""

SWEPT = ("fine-tune", "random label", "RL + AGR", "similar labels", "Q-MUL", "OEU")
"""The methods that run in float too, all but the first of them at every precision; at the headline all do."""

STUDIED = ("fine-tune", "random label", "similar labels", "RL + AGR", "SalUn", "Q-MUL", "OEU")
"""The methods of the study; the two parts of Q-MUL are there to tell which of them does what it does."""

STUDIED_AT = (W4A4.name, RANDOM_5.name)
"""The study's precision and forget set, as rows name them."""
