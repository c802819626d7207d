"""What is seen in the figures of the two unlearning chapters, a sentence each, with the figure's own numbers."""

import numpy as np
import pandas as pd

from palimpsest.chapters.shared.judging import against, level, show
from palimpsest.chapters.unlearning_quantised.arms import BASELINES, HEADLINE
from palimpsest.chapters.unlearning_quantised.experiment import Results
from palimpsest.chapters.unlearning_quantised.figures import PAIR
from palimpsest.chapters.unlearning_quantised.judging import advantage
from palimpsest.chapters.unlearning_quantised.oeu_claims import at_equal_entropy, excess
from palimpsest.metrics.statistics import Estimate, estimate


def _methods(results: Results, at: tuple[str, str]) -> list[str]:
    rows = results.rows[results.rows.precision.eq(at[0]) & results.rows.forget_set.eq(at[1])]
    return [m for m in rows.method.unique() if m not in ("retrain", "retrain again", "original")]


def _levels(results: Results, name: str, at: tuple[str, str], methods: list[str]) -> dict[str, Estimate]:
    return {m: estimate(results.column(name, m, *at).dropna()) for m in methods}


def plane(results: Results, at: tuple[str, str] = HEADLINE) -> str:
    methods = _methods(results, at)
    target = estimate(results.column("FA", "retrain", *at))
    found = _levels(results, "FA", at, methods)
    total = len(methods)
    more = sum(e.low > target.high for e in found.values())
    less = sum(e.high < target.low for e in found.values())
    return (
        f"Retrain's FA is {level(target)}; of {total} methods {more} lie wholly to its right and still remember, "
        f"{less} wholly to its left and forget more, and the intervals of {total - more - less} meet its own."
    )


def gaps(results: Results, at: tuple[str, str] = HEADLINE) -> str:
    methods = _methods(results, at)
    found = _levels(results, "gap", at, methods)
    nearest = min(found, key=lambda name: found[name].mean)
    alike = sum(e.low <= found[nearest].high for e in found.values()) - 1
    nothing = estimate(results.column("gap", "original", *at).dropna())
    return (
        f"{', '.join(at)}: nearest to Retrain is {nearest}, {level(found[nearest], 'points')}; the intervals of "
        f"{alike} of {len(methods) - 1} others meet its own. Doing nothing is {level(nothing, 'points')} away."
    )


def advantages(results: Results, method: str, others=(*BASELINES, "Q-MUL", "OEU")) -> str:
    return against(method, advantage(results, method, [o for o in others if o != method]))


def gradients(results: Results, method: str = "OEU") -> str:
    rows = results.logged(method)
    dot, norm_f, norm_r = (rows.pivot(index="step", columns="seed", values=n).to_numpy() for n in PAIR)
    angle = np.degrees(np.arccos(np.clip(dot / (norm_f * norm_r), -1, 1))).mean(1)
    longer = int((norm_f.mean(1) > norm_r.mean(1)).sum())
    return (
        f"The mean angle runs from {angle.min():.0f}° to {angle.max():.0f}° and is above 90° in "
        f"{int((angle > 90).sum())} of {len(angle)} pairs; g_f is the longer one in {longer} of them."
    )


def courses(table: pd.DataFrame) -> str:
    """`table`: `probes.along`."""
    losses = at_equal_entropy(table)
    said = ", ".join(f"{losses[method].mean():.3f} nats with {method}" for method in losses)
    return f"Where both have raised the entropy equally, the retain loss is {said}; means over seeds."


def labels(table: pd.DataFrame) -> str:
    """`table`: `probes.injected_labels`."""
    found = excess(table)
    learnt = [name for name, e in found.items() if e.low > 0]
    said = ", ".join(f"{name} {show(e)}" for name, e in found.items())
    return f"Above Retrain lie the intervals of {', '.join(learnt) or 'none'}: {said}."


def flows(results: Results, methods=("retrain", "original", "random label", "Q-MUL", "OEU")) -> str:
    shares = []
    for method in methods:
        counts = np.sum(results.column("flow", method).tolist(), axis=0)
        shares.append(f"{method} {100 * np.trace(counts) / counts.sum():.0f} %")
    return f"On the diagonal, of all forget samples: {', '.join(shares)}."


def entropies(results: Results, methods=("retrain", "original", "random label", "Q-MUL", "OEU")) -> str:
    means = {m: np.concatenate(results.column("entropies", m).tolist()).mean() for m in methods}
    return f"Mean entropy, nats: {', '.join(f'{method} {value:.2f}' for method, value in means.items())}."
