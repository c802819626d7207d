"""Jensen-Shannon beside its peers."""

import torch

from palimpsest.kernels.bench import NotRun
from palimpsest.kernels.inputs import normal, with_gradients
from palimpsest.kernels.jensen_shannon import jensen_shannon, reference
from palimpsest.kernels.tolerances import accumulation_dtype, admitted_error

SHAPES = {
    "cpu": ((80, 1, 64), (256, 10, 10), (12_000, 10, 10), (4_096, 100, 10), (512, 100, 128), (2_048, 10, 512)),
    "cuda": (
        (12_000, 10, 10),
        (65_536, 1_000, 10),
        (1_000_000, 1_000, 10),
        (65_536, 1_000, 128),
        (8_192, 1_000, 512),
    ),
}
"""(N, C, D)."""
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
DIRECTIONS = ("forward", "backward")
INPUTS = {"p_logits": normal(lambda n, c, d: (n, d), 3), "q_logits": normal(lambda n, c, d: (c, d), 3)}
CHECKED_ROWS = 48
"""Of either input: float64 holds N x C x D."""


ours = jensen_shannon


def eager(p_logits, q_logits):
    """The definition without care: no zero probabilities, N x C x D held several times."""
    dtype = accumulation_dtype(p_logits.dtype)
    log_p, log_q = p_logits.to(dtype).log_softmax(-1)[:, None], q_logits.to(dtype).log_softmax(-1)[None]
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).log()
    return ((p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)) / 2


def _probabilities(logits):
    if logits.is_cuda or logits.requires_grad:
        raise NotRun("computes on the host, without gradients")
    return logits.float().softmax(-1).numpy()


def _scipy(p_logits, q_logits):
    """scipy gives the distance, the square root of the divergence."""
    from scipy.spatial.distance import cdist

    return cdist(_probabilities(p_logits), _probabilities(q_logits), "jensenshannon") ** 2


def _faiss(p_logits, q_logits):
    """faiss gives the divergence in nats, without a square root."""
    import faiss

    return faiss.pairwise_distances(
        _probabilities(p_logits), _probabilities(q_logits), metric=faiss.METRIC_JensenShannon
    )


def _cuvs(p_logits, q_logits):
    """cuVS gives the distance, as scipy does."""
    if not p_logits.is_cuda or p_logits.requires_grad:
        raise NotRun("computes on CUDA, without gradients")
    from cuvs.distance import pairwise_distance

    out = torch.empty(len(p_logits), len(q_logits), device=p_logits.device)
    p, q = p_logits.float().softmax(-1), q_logits.float().softmax(-1)
    pairwise_distance(p, q, out=out, metric="jensenshannon")
    return out.square_()


PEERS = {"scipy": _scipy, "faiss": _faiss, "cuvs": _cuvs}


def bytes_moved(shape, dtype, direction):
    """Forward: logits read, J written. Backward: logits and gradient of J read, both gradients written."""
    n, c, d = shape
    logits, pairs = (n + c) * d * dtype.itemsize, n * c * accumulation_dtype(dtype).itemsize
    return logits + pairs if direction == "forward" else 2 * logits + pairs


def agreement(p_logits, q_logits):
    """Value and both gradients on the first rows."""
    p, q = p_logits[:CHECKED_ROWS], q_logits[:CHECKED_ROWS]
    value, exact, weight, grads = with_gradients(jensen_shannon, reference.jensen_shannon, [p, q])
    width = p.shape[1]
    yield "value", value, exact, admitted_error(value.dtype, width, reference.error_scale(p, q))
    scales = reference.gradient_scale(p, q, weight)
    for name, pair, scale, others in zip("pq", grads, scales, (len(q), len(p)), strict=True):
        yield f"gradient of {name}_logits", *pair, admitted_error(p.dtype, width + others, scale)
