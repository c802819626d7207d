"""Membership inference against language models: scores of texts that are low on what a model was trained on, for
`membership.auc` and `tofu.priv_leak`. Two more such scores: the loss itself, and `tofu.min_k`.

Arguments are tensors or arrays; computed in float64. Raises ValueError for shapes that do not fit, values that are
not finite, and empty sets.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from . import checks, tofu

LEAST_DEVIATION = 1e-3
"""A smaller deviation is taken as this one, in nats: a token that is certain has none. open-unlearning's floor."""


def min_k_plus_plus(logprobs, means, deviations, labels) -> np.ndarray:
    """Min-40 %++: `tofu.min_k` of (ln p − μ) / σ, μ and σ the mean and the standard deviation of ln p(k) over tokens
    k that are drawn from the model's distribution at this position. No unit; negative where even the least likely
    tokens are likelier than the model expects of its own.

    Zhang et al. 2024, "Min-K%++: Improved baseline for detecting pre-training data from large language models"
    (arXiv 2404.02936, section 4), negated. The share of tokens is that of `tofu.min_k`, which is also
    open-unlearning's.

    Args:
        logprobs: [N, T] log-probabilities of the labels in nats, as in `tofu.min_k`.
        means, deviations: [N, T] as `evaluation.logprob_moments` gives them; deviations >= 0.
        labels: [N, T] as in `tofu.exact_memorisation`.

    Returns float64 [N].
    """
    logprobs = checks.real("logprobs", logprobs, "NT")
    moments = {"means": checks.real("means", means, "NT"), "deviations": checks.real("deviations", deviations, "NT")}
    for name, values in moments.items():
        if values.shape != logprobs.shape:
            raise ValueError(f"{name}: got shape {list(values.shape)}, want that of logprobs, {list(logprobs.shape)}")
    if moments["deviations"].min() < 0:
        raise ValueError(f"deviations: got {moments['deviations'].min()}, want numbers of at least 0")
    return tofu.min_k((logprobs - moments["means"]) / moments["deviations"].clip(min=LEAST_DEVIATION), labels)


def zlib_ratio(losses, texts: Sequence[str]) -> np.ndarray:
    """loss / bytes of the text as zlib compresses it: a text that is likely because it repeats itself is no sign.

    Carlini et al. 2021, "Extracting training data from large language models" (arXiv 2012.07805, section 5.2), who
    count bits, an eighth of this. open-unlearning: bytes of the answer in UTF-8 at zlib's default level, as here. A
    build of Python on another zlib may compress to a few bytes more or less.

    losses: [N] mean losses of the answers' tokens in nats; texts: the N answers. Returns float64 [N].
    """
    losses = checks.real("losses", losses, "N")
    listed = isinstance(texts, Sequence) and not isinstance(texts, str)
    if not listed or len(texts) != len(losses) or not all(isinstance(text, str) for text in texts):
        got = f"{len(texts)} texts" if listed else "one string" if isinstance(texts, str) else type(texts).__name__
        raise ValueError(f"texts: got {got}, want one for each of {len(losses)} losses")
    return losses / [len(zlib.compress(text.encode())) for text in texts]


def reference_gap(losses, reference_losses) -> np.ndarray:
    """loss − loss of another model that was not trained on the text: what makes a text easy for both is no sign.

    Carlini et al. 2021 (arXiv 2012.07805, section 5.2) divide the two; open-unlearning subtracts, as here, which is
    the logarithm of a likelihood ratio per token. The retrained model is a natural reference.

    losses, reference_losses: [N] mean losses of the same answers in nats, of the two models. Returns float64 [N].
    """
    losses, reference = checks.real("losses", losses, "N"), checks.real("reference_losses", reference_losses, "N")
    if len(losses) != len(reference):
        raise ValueError(f"reference_losses: got {len(reference)}, want the {len(losses)} of losses")
    return losses - reference
