"""Softmax entropy beside its peers."""

import torch

from palimpsest.kernels.inputs import normal, with_gradients
from palimpsest.kernels.softmax_entropy import reference, softmax_entropy
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error

SHAPES = {
    "cpu": ((16, 10), (256, 10), (12_000, 10), (512, 1_000), (64, 49_152)),
    "cuda": ((256, 10), (65_536, 100), (65_536, 1_000), (4_096, 49_152), (2_048, 151_936)),
}
"""(N, K): a batch and a data set of ten classes, ImageNet's classes, vocabularies of language models."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
DIRECTIONS = ("forward", "backward")
INPUTS = {"logits": normal(lambda n, k: (n, k), 3)}
CHECKED_ROWS = 64

ours = softmax_entropy


def eager(logits):
    """The definition without care for zero probabilities; logarithms and probabilities are both held."""
    log_p = logits.to(accumulation_dtype(logits.dtype)).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _categorical(logits):
    return torch.distributions.Categorical(logits=logits, validate_args=False).entropy()


def _log_sum_exp(logits):
    """ln sum_k e^z_k - sum_k p_k z_k, as reinforcement learning libraries write it."""
    z = logits.to(accumulation_dtype(logits.dtype))
    return z.logsumexp(-1) - (z.softmax(-1) * z).sum(-1)


PEERS = {"Categorical": _categorical, "logsumexp": _log_sum_exp}


def bytes_moved(shape, dtype, direction):
    """Forward: logits read, H written. Backward: logits and gradient of H read, gradient written."""
    n, k = shape
    logits, entropies = n * k * dtype.itemsize, n * accumulation_dtype(dtype).itemsize
    return logits + entropies if direction == "forward" else 2 * logits + entropies


def agreement(logits):
    """Value and gradient on the first rows."""
    z = logits[:CHECKED_ROWS]
    value, exact, weight, [grads] = with_gradients(softmax_entropy, reference.softmax_entropy, [z])
    of_value = reference.error_scale(z, apart=z.is_cuda)
    of_grad = reference.gradient_scale(z, weight, apart=z.is_cuda)
    yield "value", value, exact, admitted_error(value.dtype, z.shape[1], of_value)
    yield "gradient of logits", *grads, admitted_error(z.dtype, z.shape[1], of_grad)
