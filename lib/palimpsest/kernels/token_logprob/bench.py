"""Log-probability of tokens beside its peers; the pattern is described in kernels/bench.py."""

import torch

from palimpsest.kernels.bench import NotRun
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
CHECKED = (48, 4_096)
"""Tokens and vocabulary: the check holds all of their logits in float64."""


def make_inputs(shape, dtype, device):
    """Logits of standard deviation 1."""
    tokens, width, vocabulary = shape
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * width**-0.5
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return hidden.to(device, dtype), weight.to(device, dtype), targets.to(device)


def ours(hidden, weight, targets):
    return token_logprob(hidden, weight, targets)


def eager(hidden, weight, targets):
    """The definition as usually written: the logits, their logarithmic softmax, one entry a row."""
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
    tokens, vocabulary = CHECKED
    h, w = (x[:count].detach().requires_grad_() for x, count in ((hidden, tokens), (weight, vocabulary)))
    y = targets[:tokens] % len(w)
    exact_h, exact_w = (x.detach().double().requires_grad_() for x in (h, w))
    value, exact = token_logprob(h, w, y), reference.token_logprob(exact_h, exact_w, y)
    terms = h.shape[1] + len(w)
    yield "value", value, exact, admitted_error(value.dtype, terms, reference.error_scale(h, w, y))
    rate = torch.linspace(-1, 1, len(h), dtype=value.dtype, device=value.device)
    grads = torch.autograd.grad(value, (h, w), rate)
    exact_grads = torch.autograd.grad(exact, (exact_h, exact_w), rate.double())
    for name, grad, exact_grad, scale in zip(
        ("hidden", "weight"), grads, exact_grads, reference.gradient_scale(h, w, y, rate), strict=True
    ):
        yield f"gradient of {name}", grad, exact_grad, admitted_error(grad.dtype, terms, scale)
