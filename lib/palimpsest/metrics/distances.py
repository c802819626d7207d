"""How far an unlearned network is from the retrained or the original one: in what the tables report, in margins,
in features, in integer codes and in steps of relearning.

Arguments are tensors or arrays; computed in float64. Raises ValueError for shapes that do not fit, values that are
not finite, and empty sets.
"""

from collections.abc import Mapping

import numpy as np
from scipy.stats import entropy

from palimpsest.checks import require_count

from . import checks

REPORTED = ("FA", "RA", "TA", "MIA")
"""Accuracy on the forget, retain and test set, and `membership.svc_confidence`."""

CLIP = 100.0
"""Margins are cut to [-100, 100] nats before they are binned (KLoM, released code)."""

FLOOR = 1e-5
"""Least probability of a bin of the retrained networks in which an unlearned one falls (KLoM, released code)."""


def avg_gap(measured: Mapping[str, float], retrain: Mapping[str, float]) -> float:
    """Mean |difference| to Retrain over FA, RA, TA and MIA, in points: 0 is Retrain's table row, 100 the farthest.

    Q-MUL, and the papers it compares with. Both arguments map those four names to shares in [0, 1], not to
    percentages; further names are ignored. Raises ValueError for a missing name or another value.
    """
    for argument, values in (("measured", measured), ("retrain", retrain)):
        for name in REPORTED:
            if name not in values:
                raise ValueError(f"{argument}: got {sorted(values)}, want all of {', '.join(REPORTED)}")
            if not 0 <= values[name] <= 1:
                raise ValueError(f"{argument}: got {values[name]} for {name!r}, want a share in [0, 1]")
    return float(100 * np.mean([abs(measured[name] - retrain[name]) for name in REPORTED]))


def klom(margins_unlearned, margins_retrained, bins: int = 20) -> np.ndarray:
    """KLoM: of every sample, the KL divergence of its margins under unlearned networks from those under retrained.

    Georgiev et al. 2024, "Attribute-to-Delete" (arXiv 2410.23232, appendix E.1): compare the distributions of a
    sample's margin over independent networks. Released code of the authors' benchmark: KL(unlearned ‖ retrained) of
    two histograms with 20 equal bins from the smallest to the largest margin of both, margins clipped
    at ±100; a bin that only unlearned networks reach has probability 1e-5 under the retrained ones before these are
    normalised again. Ours: the largest margin belongs to the last bin (that code drops it).

    It needs many networks: the benchmark's examples take 100. Two sets drawn from one normal distribution are about
    0.4 apart with 100 networks each, 5.6 with 10 and 9.2 with 3 (in 4 bins 0.04, 0.9 and 5.0), of at most
    ln 1e5 = 11.5. So report it beside the value of a second set of retrained networks, and with few networks take
    fewer bins.

    Args:
        margins_unlearned: [M, N], row m from network m (`predictions.margin`).
        margins_retrained: [L, N], the same samples; L may differ from M.
        bins: number of bins, at least 2.

    Returns float64 [N] nats; 0 for equal histograms.
    """
    require_count("bins", bins, least=2)
    p = checks.real("margins_unlearned", margins_unlearned, "MN").clip(-CLIP, CLIP)
    q = checks.real("margins_retrained", margins_retrained, "LN").clip(-CLIP, CLIP)
    if p.shape[1] != q.shape[1]:
        raise ValueError(f"margins_retrained: got {q.shape[1]} samples, want the {p.shape[1]} of margins_unlearned")
    low = np.minimum(p.min(0), q.min(0))
    width = np.maximum(p.max(0), q.max(0)) - low
    width[width == 0] = 1
    p, q = (_histograms((margins - low) / width, bins) for margins in (p, q))
    return entropy(p, np.where(p > 0, np.maximum(q, FLOOR), q))


def linear_cka(features_a, features_b) -> float:
    """Similarity of two representations of the same samples, in [0, 1]: linear centred kernel alignment.

    ‖A'B‖² / (‖A'A‖ ‖B'B‖) with columns centred and Frobenius norms (Kornblith et al. 2019, equation 5). It is 1
    where one is the other rotated, reflected, scaled or shifted. With few samples it is biased upwards: independent
    features of D columns each come to about D / (D + N). Memory: D1 × D2, D1 × D1 and D2 × D2 numbers.

    features_a: [N, D1], features_b: [N, D2], row n of both from sample n. Raises ValueError for other shapes and
    for features that are the same for every sample.
    """
    a, b = checks.real("features_a", features_a, "ND"), checks.real("features_b", features_b, "ND")
    if len(a) != len(b):
        raise ValueError(f"features_b: got {len(b)} samples, want the {len(a)} of features_a")
    for name, features in (("features_a", a), ("features_b", b)):
        if (features == features[0]).all():
            raise ValueError(f"{name}: got {len(features)} equal rows, want features that differ between samples")
    # A unit of its own for each, a power of two, so that no product overflows or vanishes.
    a, b = (np.ldexp(x, -int(np.frexp(np.abs(x).max())[1])) for x in (a, b))
    a, b = a - a.mean(0), b - b.mean(0)
    cka = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return min(1.0, float(cka))  # at most 1 but for rounding


def codes_changed(before: Mapping, after: Mapping) -> float:
    """Share of integer codes that differ between two quantised networks, over all layers, in [0, 1].

    Codes are what is deployed, so 0 means that only step sizes and unquantised parameters can differ. A layer
    weighs by its number of codes.

    before, after: layer name -> integer codes of any shape (`nets.quantised.codes`). Raises ValueError unless
    both have the same names with the same shapes, hold integers, and at least one code.
    """
    if set(before) != set(after):
        raise ValueError(f"after: got layers {sorted(after)}, want those of before, {sorted(before)}")
    changed = total = 0
    for name in before:
        a, b = checks.array(before[name]), checks.array(after[name])
        if a.shape != b.shape or a.dtype.kind not in "iu" or b.dtype.kind not in "iu":
            got = f"{a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
            raise ValueError(f"before, after: got {got} for {name!r}, want integers of one shape")
        changed, total = changed + np.count_nonzero(a != b), total + a.size
    if total == 0:
        raise ValueError("before: got no codes, want at least one")
    return changed / total


def steps_to_recover(accuracies, target: float) -> int | None:
    """Relearn time: the first index at which a relearning curve is at or above `target`, None if it never is.

    accuracies: [T], index 0 before the first step of relearning; target: in the curve's unit, finite.
    """
    reached = checks.real("accuracies", accuracies, "T") >= checks.real("target", target, "")
    return int(reached.argmax()) if reached.any() else None


def _histograms(positions, bins):
    """[M, N] positions in [0, 1] -> [bins, N] shares of each column's M entries."""
    samples = positions.shape[1]
    index = np.minimum((positions * bins).astype(np.int64), bins - 1)
    counts = np.bincount((index * samples + np.arange(samples)).ravel(), minlength=bins * samples)
    return counts.reshape(bins, samples) / len(positions)
