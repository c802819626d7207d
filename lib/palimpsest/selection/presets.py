"""The two named readings of JSCDS. Neither is called the authors' own: no code of theirs was found."""

from dataclasses import dataclass, fields

from palimpsest.selection import checks
from palimpsest.selection.divergences import DIVERGENCES
from palimpsest.selection.rules import RULES

CHOICES = {
    "divergence": tuple(DIVERGENCES),
    "space": ("penultimate", "logits"),
    "rule": tuple(RULES),
    "scorer": ("trained", "fresh_head"),
    "scope": ("class", "global"),
}


@dataclass(frozen=True)
class Preset:
    """One setting of every JSCDS switch; a value outside `CHOICES` is a `ValueError`.

    divergence: of a sample from its class centre (`DIVERGENCES`).
    space: which vectors `features` holds. Decided by whoever computes them, since `select` cannot tell.
    rule: which divergences are kept (`RULES`).
    scorer: whether the network that gave `features` was trained, or carries a freshly initialised head.
    Decided
        by whoever computes them.
    scope: "class" applies the rule and the budget within each class; "global" to all samples at once, the
        divergence still taken to the centre of the sample's own class.
    """

    divergence: str
    space: str
    rule: str
    scorer: str
    scope: str

    def __post_init__(self):
        for field in fields(self):
            checks.choice(field.name, getattr(self, field.name), CHOICES[field.name])


PRESETS = {
    # arXiv:2407.00362, as its abstract tells it; space, scorer and scope are our reading.
    "paper_text": Preset("jsd", "penultimate", "near_mean", "trained", "class"),
    # github.com/papercodeforreview/codeforICMR2025, deepcore/methods/jsd.py.
    "successor_code": Preset("half_jeffreys", "logits", "farthest", "fresh_head", "class"),
}
