"""Jensen-Shannon beside its peers; the pattern is described in kernels/bench.py."""

import torch

from palimpsest.kernels.bench import NotRun
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
CHECKED_ROWS = 48
"""Of either input: float64 holds N x C x D."""


def make_inputs(shape, dtype, device):
    """Logits of standard deviation 3, [N, D] and [C, D]."""
    n, c, d = shape
    generator = torch.Generator().manual_seed(0)
    return tuple((torch.randn(rows, d, generator=generator) * 3).to(device, dtype) for rows in (n, c))


def ours(p_logits, q_logits):
    return jensen_shannon(p_logits, q_logits)


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
    p, q = (x[:CHECKED_ROWS].detach().requires_grad_() for x in (p_logits, q_logits))
    exact_p, exact_q = (x.detach().double().requires_grad_() for x in (p, q))
    value, exact = jensen_shannon(p, q), reference.jensen_shannon(exact_p, exact_q)
    width = p.shape[1]
    yield "value", value, exact, admitted_error(value.dtype, width, reference.error_scale(p, q))
    weight = torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
    grads = torch.autograd.grad(value, (p, q), weight)
    exact_grads = torch.autograd.grad(exact, (exact_p, exact_q), weight.double())
    scales = reference.gradient_scale(p, q, weight)
    for name, grad, exact_grad, scale, others in zip("pq", grads, exact_grads, scales, (len(q), len(p)), strict=True):
        yield (
            f"gradient of {name}_logits",
            grad,
            exact_grad,
            admitted_error(grad.dtype, width + others, scale),
        )
