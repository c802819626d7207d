"""Top-k confidence beside its peers."""

import math

import torch

from palimpsest.kernels.inputs import Draw, normal
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error
from palimpsest.kernels.topk_confidence import reference, topk_confidence

SHAPES = {
    "cpu": ((1, 1_000, 10), (64, 1_000, 10), (1, 49_152, 10), (64, 49_152, 10)),
    "cuda": ((1, 151_936, 10), (64, 151_936, 10), (1_024, 49_152, 10), (4_096, 151_936, 10)),
}
"""(N, V, k)."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
DIRECTIONS = ("forward",)
INPUTS = {"logits": normal(lambda n, v, k: (n, v), 3), "k": Draw(lambda shape, *_: shape[2])}
CHECKED_ROWS = 16


ours = topk_confidence


def eager(logits, k):
    """As in the paper: softmax over the vocabulary, its k largest entries, renormalised."""
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
    logits = logits[:CHECKED_ROWS]
    (probs, ids, alpha), exact = topk_confidence(logits, k), reference.topk_confidence(logits.double(), k)
    of_probs, of_alpha = reference.error_scales(exact[0])
    yield "order", ids, exact[1], torch.zeros(())
    yield "probability", probs, exact[0], admitted_error(probs.dtype, k, of_probs)
    yield "confidence", alpha, exact[2], admitted_error(alpha.dtype, k, of_alpha)
