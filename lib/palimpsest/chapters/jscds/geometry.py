"""How subsets and divergences relate to each other: overlaps, and rank correlations of scores."""

import torch
from scipy.stats import spearmanr
from torch import Tensor

from palimpsest import selection, training
from palimpsest.chapters.jscds.cohort import Cohort
from palimpsest.selection.divergences import mean


def overlap(a: Tensor, b: Tensor) -> float:
    """Share of `a` that is in `b`; both are index sets of one size."""
    return torch.isin(a, b).double().mean().item()


def rank_correlation(a: Tensor, b: Tensor, labels: Tensor) -> float:
    """Spearman's correlation within each class, averaged over the classes."""
    by_class = [spearmanr(a[labels == c], b[labels == c]).statistic for c in labels.unique()]
    return float(sum(by_class) / len(by_class))


def expansion(features: Tensor, labels: Tensor) -> Tensor:
    """⅛ Σ (p − q)²/q for each sample, its p and its class centre's q as in JSCDS: [N, D], [N] -> [N] float64.

    What is left of J(p, q) where p is near q. With u = (p − q)/q the mixture is m = q(1 + u/2), and
    J = ½ Σ q [(1 + u) ln(1 + u) − (2 + u) ln(1 + u/2)] = ⅛ Σ q u² + terms of third order.
    """
    out = torch.empty(len(labels), dtype=torch.float64)
    for c in labels.unique():
        members = (labels == c).nonzero().flatten()
        samples = features[members].double()
        p, q = samples.softmax(-1), mean(samples).softmax(-1)
        out[members] = ((p - q).square() / q).sum(-1) / 8
    return out


def geometry(cohort: Cohort, halves: dict[str, Tensor]) -> list[dict]:
    """One record per seed. "rank correlation" of J with other scores of a sample on one scorer; "overlap" of the half
    that JSCDS keeps with the `halves` [K, n] of other methods, and with its own on a scorer from another start."""
    features = cohort.predicted("trained")[0]
    others = training.predict(cohort.other_scorers[0], cohort.x)[0]
    records = []
    for k, (seed, f, other, y) in enumerate(zip(cohort.seeds, features, others, cohort.y, strict=True)):
        j, ours = selection.divergence_to_centre(f, y, "jsd"), halves["jscds"][k]
        scores = {name: selection.divergence_to_centre(f, y, name) for name in ("l2", "half_jeffreys")}
        scores["expansion"] = expansion(f, y)
        records.append(
            {
                "seed": seed,
                "rank correlation": {name: rank_correlation(j, score, y) for name, score in scores.items()},
                "expansion over J": (scores["expansion"].sum() / j.sum()).item(),
                "overlap": {
                    "another start of the scorer": overlap(ours, selection.select(other, y, 0.5)),
                    **{name: overlap(ours, kept[k]) for name, kept in halves.items() if name != "jscds"},
                },
            }
        )
    return records
