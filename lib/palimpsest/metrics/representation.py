"""What a network's features still know, whatever its last layer says.

Kim et al. 2025, "Are we truly forgetting?" (arXiv 2503.06991): logits deceive, because a method may change the last
layer alone; they compare features by k nearest neighbours and by CKA (`distances.linear_cka`) with the original's
and Retrain's. Linear probes (Alain and Bengio 2016) ask the same of directions. Ours: both learn from labelled images
that no network was trained on, so that what they find in a forget sample is what the features hold of it, and not
what the probe was told.

Arguments are tensors or arrays; computed in float64. Raises ValueError for shapes that do not fit, values that are
not finite, labels that are none, and empty sets.
"""

import numpy as np

from palimpsest.checks import require_count

from . import checks


def linear_probe(known, known_labels, features, labels) -> float:
    """Accuracy in [0, 1] of a ridge classifier (penalty 1) on standardised features.

    known [n, D] with known_labels [n]: what it learns from, at least two classes. features [m, D] with labels [m]:
    what it is asked, of those classes.
    """
    known, known_labels, features, labels = _checked(known, known_labels, features, labels)
    from sklearn.linear_model import RidgeClassifier  # here, because it takes a second to import

    mean, spread = known.mean(0), known.std(0)
    spread[spread == 0] = 1
    probe = RidgeClassifier(alpha=1.0).fit((known - mean) / spread, known_labels)
    return float(probe.score((features - mean) / spread, labels))


def nearest_neighbours(known, known_labels, features, labels, k: int = 5) -> float:
    """Accuracy in [0, 1] of the majority among the k nearest `known` by cosine; arguments as `linear_probe`."""
    require_count("k", k)
    known, known_labels, features, labels = _checked(known, known_labels, features, labels)
    if k > len(known):
        raise ValueError(f"k: got {k}, want at most the {len(known)} known samples")
    from sklearn.neighbors import KNeighborsClassifier

    probe = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(known, known_labels)
    return float(probe.score(features, labels))


PROBES = {"linear": linear_probe, "nearest neighbours": nearest_neighbours}
"""Name in tables -> the probe."""


def _checked(known, known_labels, features, labels):
    known, features = checks.real("known", known, "ND"), checks.real("features", features, "ND")
    if known.shape[1] != features.shape[1]:
        raise ValueError(f"features: got {features.shape[1]} columns, want the {known.shape[1]} of known")
    classes = max(2, 1 + int(np.max(checks.array(known_labels), initial=0)))
    known_labels = checks.classes_of("known_labels", known_labels, classes, len(known))
    if len(np.unique(known_labels)) < 2:
        raise ValueError(f"known_labels: got {known_labels[0]} alone, want at least two classes")
    return known, known_labels, features, checks.classes_of("labels", labels, classes, len(features))
