"""Who competes in the two unlearning chapters."""

from IPython.display import Markdown

from palimpsest.chapters.shared.competitors import Competitor, table
from palimpsest.chapters.unlearning_quantised.arms import CONSTANTS, HEADLINE
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.unlearning.vision.qmul import QUIRKS

COMPETITORS = {
    "original": Competitor("nothing is forgotten"),
    "retrain": Competitor("trained without the forget set, from the original's start: the yardstick"),
    "retrain again": Competitor("the same from another start: what no method can be asked to beat"),
    "fine-tune": Competitor("go on training on the retain set", "warnecke2023features"),
    "gradient ascent": Competitor("raise the loss on the forget set", "graves2021amnesiac,thudi2022unrolling"),
    "NegGrad+": Competitor("fine-tune and ascend at once", "kurmanji2023unbounded"),
    "random label": Competitor("train the forget set on random labels, the rest on its own", "golatkar2020eternal"),
    "random label, again": Competitor("the same under another name: the floor of noise"),
    "l1-sparse": Competitor("fine-tune with a penalty on the sum of absolute weights", "jia2023sparsity"),
    "SalUn": Competitor("random labels, learnt by the salient weights alone", "fan2024salun"),
    "SCRUB": Competitor("disobey the original on the forget set, obey it elsewhere", "kurmanji2023unbounded"),
    "Bad Teacher": Competitor("learn the forget set from an untrained teacher", "chundawat2023bad"),
    "SSD": Competitor("dampen weights that matter to the forget set above all", "foster2024ssd"),
    "Q-MUL": Competitor("similar labels, and losses weighted so that gradients balance", "tong2025qmul"),
    "similar labels": Competitor("Q-MUL with equal weights"),
    "RL + AGR": Competitor("Q-MUL's weights with random labels"),
    **dict.fromkeys(CONSTANTS, Competitor("Q-MUL with this constant weight of the forget set")),
    "Q-MUL, mixed": Competitor("Q-MUL with both sets in one shuffled order"),
    "OEU": Competitor("raise entropy on the forget set, orthogonal to the retain gradient", "zhang2026oeu"),
    "entropy only": Competitor("OEU without the projection"),
    "projection only": Competitor("the projection with random labels in the place of entropy"),
    "random direction": Competitor("OEU, orthogonal to a random vector"),
    "KL(u, p)": Competitor("OEU with the divergence from uniform in the place of entropy"),
    **{
        f"Q-MUL, quirk: {name}": Competitor(f"Q-MUL with one departure of the released code: {what}")
        for name, what in zip(
            QUIRKS,
            ("a logit against a probability", "positions off by one", "labels in another order", "moved statistics"),
            strict=True,
        )
    },
    "Q-MUL, all quirks": Competitor("Q-MUL with all four"),
}


def who(results: Results) -> Markdown:
    """The methods that were run, with the optimiser steps that each took at the headline's condition."""
    precision, forget_set = HEADLINE
    rows = results.rows[results.rows.precision.eq(precision) & results.rows.forget_set.eq(forget_set)]
    counted = rows.groupby("method")[["steps"]].mean().dropna()
    return table(COMPETITORS, results.rows.method, counted=counted)
