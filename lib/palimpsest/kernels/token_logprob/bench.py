"""Log-probability of tokens beside its peers."""

import torch

from palimpsest.kernels.bench import NotRun
from palimpsest.kernels.inputs import Draw, normal, with_gradients
from palimpsest.kernels.token_logprob import reference, token_logprob
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error

SHAPES = {
    "cpu": ((16, 64, 1_000), (64, 64, 4_096), (256, 64, 8_192), (512, 256, 8_192), (64, 576, 49_152)),
    "cuda": (
        (4_096, 576, 49_152),
        (8_192, 2_048, 128_256),
        (4_096, 4_096, 128_256),
        (16_384, 4_096, 151_936),
    ),
}
"""(T, D, V)."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
DIRECTIONS = ("forward", "backward")
INPUTS = {
    "hidden": normal(lambda t, d, v: (t, d)),
    "weight": normal(lambda t, d, v: (v, d), lambda t, d, v: d**-0.5),
    "targets": Draw(lambda shape, generator, _: torch.randint(shape[2], shape[:1], generator=generator)),
}
"""Logits of standard deviation 1."""
CHECKED = (48, 4_096)
"""Tokens and vocabulary: the check holds all of their logits in float64."""


ours = token_logprob


def eager(hidden, weight, targets):
    """The definition as usually written: the logits, their logarithmic softmax, one entry per row."""
    logits = (hidden @ weight.t()).to(accumulation_dtype(hidden.dtype))
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def _liger(hidden, weight, targets):
    """Liger's fused linear cross-entropy; it takes its gradients in the forward pass, for one common weight."""
    if not hidden.is_cuda:
        raise NotRun("computes on CUDA")
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return -liger_fused_linear_cross_entropy(hidden, weight, targets, reduction="sum")


PEERS = {"liger": _liger}


def bytes_moved(shape, dtype, direction):
    """Forward: hidden, weight and targets read, T values written. Backward also writes both gradients."""
    tokens, width, vocabulary = shape
    inputs, value = (tokens + vocabulary) * width * dtype.itemsize, tokens * accumulation_dtype(dtype).itemsize
    return (inputs if direction == "forward" else 2 * inputs) + 8 * tokens + value


def agreement(hidden, weight, targets):
    """Value and both gradients for the first tokens and the first part of the vocabulary."""
    h, w = hidden[: CHECKED[0]], weight[: CHECKED[1]]
    y = targets[: CHECKED[0]] % len(w)
    value, exact, rate, grads = with_gradients(
        lambda h, w: token_logprob(h, w, y), lambda h, w: reference.token_logprob(h, w, y), [h, w]
    )
    terms = h.shape[1] + len(w)
    yield "value", value, exact, admitted_error(value.dtype, terms, reference.error_scale(h, w, y))
    scales = reference.gradient_scale(h, w, y, rate)
    for name, pair, scale in zip(("hidden", "weight"), grads, scales, strict=True):
        yield f"gradient of {name}", *pair, admitted_error(h.dtype, terms, scale)
