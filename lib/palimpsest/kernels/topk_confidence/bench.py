"""Top-k confidence beside its peers; the pattern is described in kernels/bench.py."""

import math

import torch

from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error
from palimpsest.kernels.topk_confidence import reference, topk_confidence

SHAPES = {
    "cpu": ((1, 1_000, 10), (64, 1_000, 10), (1, 49_152, 10), (64, 49_152, 10)),
    "cuda": ((1, 151_936, 10), (64, 151_936, 10), (1_024, 49_152, 10), (4_096, 151_936, 10)),
}
"""(N, V, k)."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
DIRECTIONS = ("forward",)
CHECKED_ROWS = 16


def make_inputs(shape, dtype, device):
    """Logits of standard deviation 3, and k."""
    rows, width, k = shape
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(rows, width, generator=generator) * 3).to(device, dtype), torch.tensor(k)


def ours(logits, k):
    return topk_confidence(logits, int(k))


def eager(logits, k):
    """As in the paper: softmax over the vocabulary, its k largest entries, renormalised."""
    k = int(k)
    top, ids = logits.to(accumulation_dtype(logits.dtype)).softmax(-1).topk(k)
    probs = top / top.sum(-1, keepdim=True)
    return probs, ids, 1 + (probs * probs.log()).sum(-1) / math.log(k)


PEERS = {}


def bytes_moved(shape, dtype, direction):
    """Logits read; k probabilities, k indices and alpha written."""
    rows, width, k = shape
    value = accumulation_dtype(dtype).itemsize
    return rows * (width * dtype.itemsize + k * (value + 8) + value)


def agreement(logits, k):
    """Indices, probabilities and alpha of the first rows."""
    k, logits = int(k), logits[:CHECKED_ROWS]
    (probs, ids, alpha), exact = topk_confidence(logits, k), reference.topk_confidence(logits.double(), k)
    of_probs, of_alpha = reference.error_scales(exact[0])
    yield "order", ids, exact[1], torch.zeros(())
    yield "probability", probs, exact[0], admitted_error(probs.dtype, k, of_probs)
    yield "confidence", alpha, exact[2], admitted_error(alpha.dtype, k, of_alpha)
