"""The arms of the two unlearning chapters: precisions, forget sets, and the methods with their settings.

They are named here and not read off the library's registries, so that what is registered there changes no chapter.
"""

from dataclasses import dataclass
from typing import Literal

from palimpsest.unlearning.vision import (
    OEU,
    SSD,
    BadTeacher,
    FineTune,
    GradientAscent,
    L1Sparse,
    Method,
    NegGradPlus,
    QMul,
    RandomLabel,
    SalUn,
    Scrub,
)
from palimpsest.unlearning.vision.qmul import QUIRKS


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

REFERENCES = ("original", "retrain", "retrain again")
"""Trained networks that stand beside the methods; the last has the retain set of Retrain and other random numbers."""

PLACEBO = ("random label", "random label, again")
"""One method under two names, with random numbers of their own: what their difference is, is noise."""

CONSTANTS: dict[str, Method] = {f"similar, w_f = {weight}": QMul(weights=weight) for weight in (0.1, 0.3, 0.5)}
"""Q-MUL with a constant weight of the forget set in place of the adaptive one."""

METHODS: dict[str, Method] = {
    "fine-tune": FineTune(),
    "gradient ascent": GradientAscent(),
    "NegGrad+": NegGradPlus(),
    **dict.fromkeys(PLACEBO, RandomLabel()),
    "l1-sparse": L1Sparse(),
    "SalUn": SalUn(),
    "SCRUB": Scrub(),
    "Bad Teacher": BadTeacher(),
    "SSD": SSD(),
    "Q-MUL": QMul(),
    "similar labels": QMul(weights=None),
    "RL + AGR": QMul(labels="random"),
    **CONSTANTS,
    "Q-MUL, mixed": QMul(schedule="mixed"),
    "OEU": OEU(),
    "entropy only": OEU(direction="none"),
    "projection only": OEU(loss="random-label"),
    "random direction": OEU(direction="random"),
    "KL(u, p)": OEU(loss="uniform"),
}
"""Name in rows and tables -> the method with its settings."""

PILOTED: dict[str, float] = {
    "fine-tune": 0.09,
    "gradient ascent": 0.01,
    "NegGrad+": 0.058,
    **dict.fromkeys(PLACEBO, 0.003),
    "l1-sparse": 0.058,
    "SalUn": 0.003,
    "SCRUB": 0.01,
    "Bad Teacher": 0.0033,
    "SSD": 50.0,
    "Q-MUL": 0.03,
    "similar labels": 0.001,
    "RL + AGR": 0.03,
    **dict(zip(CONSTANTS, (0.017, 0.0058, 0.0017), strict=True)),
    "Q-MUL, mixed": 0.03,
    "OEU": 0.03,
    "entropy only": 0.03,
    "projection only": 0.003,
    "random direction": 0.03,
    "KL(u, p)": 0.0058,
}
"""The value of smallest gap in pilots at W4A4, on seeds 60 to 62 and 300 to 309, which are retired; the next larger
one where that was the largest tried. OEU with and without its projection take one value."""

PILOTED_IN_FLOAT: dict[str, float] = {"fine-tune": 0.09, "Q-MUL": 0.09}
"""The same in float, where it differs."""


def values_around(method: str, precision: str, count: int) -> list[float]:
    """`count` values of a method to try, a factor √3 apart, of which the last but one is the pilot's."""
    middle = PILOTED_IN_FLOAT.get(method, PILOTED[method]) if precision == FLOAT.name else PILOTED[method]
    return [float(f"{middle * 3 ** (k / 2):.3g}") for k in range(2 - count, 2)]


QUIRKED: dict[str, Method] = {
    **{f"Q-MUL, quirk: {name}": QMul(official_quirks=(name,)) for name in QUIRKS},
    "Q-MUL, all quirks": QMul(official_quirks=True),
}
"""What the released code does where it departs from its rule, one thing at a time, at Q-MUL's own step size."""

FIXED: dict[str, Method] = {
    "random label": RandomLabel(fixed=True),
    "SalUn": SalUn(fixed=True),
    "Q-MUL": QMul(fixed=True),
}
"""The label methods with wrong labels that stay those of the first epoch, so that one can look for them later."""

BASELINES = (
    *("fine-tune", "gradient ascent", "NegGrad+", "random label", "l1-sparse", "SalUn", "SCRUB", "Bad Teacher"),
    "SSD",
)
"""Published methods that are neither of the two papers'."""

LABEL_METHODS = tuple(FIXED)
"""Methods that train the forget set on wrong labels."""

VARIANTS = (*CONSTANTS, "Q-MUL, mixed")
"""Parts of Q-MUL that its own chapter alone takes apart."""

SWEEP = tuple(precision.name for precision in (FLOAT, W8A8, W4A4, W2A2))
"""The precisions along which the noise of labels is compared."""

IN_FLOAT = ("fine-tune", "random label", "similar labels", "Q-MUL")
"""The methods that run in float too, tuned there."""

ELSEWHERE = ("fine-tune", "random label", "SalUn", "SCRUB", "Q-MUL", "OEU")
"""The methods that forget other sets, at the values tuned on the headline's."""

STUDIED = ("fine-tune", *PLACEBO, "similar labels", "RL + AGR", "SalUn", "Q-MUL", "OEU")
"""The methods of the study; parts of the two papers' methods are there to tell which of them does what it does."""

STUDIED_AT = (W4A4.name, RANDOM_5.name)
"""The study's precision and forget set, as rows name them."""
