"""The torch path: equations (3) and (7) of README.md on tiles that stay in cache.

In float64 whatever the input: the entropy form is short (one logarithm a pair) but cancels, and its absolute
error of about 1e-15 is finer than float32 logits can tell apart.
"""

import math

import torch

from palimpsest.kernels.jensen_shannon.reference import greatest_divergence
from palimpsest.kernels.tolerances import accumulation_dtype, tolerance

TILE = 1 << 16
"""Elements of one tile: two of them in float64, 1 MB, fit the second-level cache of one core."""

LOG_ZERO = -690.0
"""Stands for ln 0: e^-690 = 2e-300 times any logarithm vanishes beside a rounding error."""


def _log_probabilities(logits):
    """[R, D] -> ln softmax, float64, as [D, R]: the rows, usually many, run innermost."""
    columns = logits.t().to(torch.float64, memory_format=torch.contiguous_format)
    return columns.log_softmax(0).clamp_(min=LOG_ZERO)


def _tiles(p_logits, log_q):
    """Walk the pairs: slices of p's rows (n) and q's (c), ln p and p [D, n], p + q and its ln [D, c, n].

    The last two live in buffers that the next step overwrites. Fast when p is the longer side.
    """
    rows, (width, others) = len(p_logits), log_q.shape
    n_step = min(rows, max(1, TILE // width))
    c_step = min(others, max(1, TILE // (width * n_step)))
    q = log_q.exp()
    buffers = torch.empty(2, width * c_step * n_step, dtype=torch.float64, device=log_q.device)
    for i in range(0, rows, n_step):
        n = slice(i, min(i + n_step, rows))
        log_p = _log_probabilities(p_logits[n])
        p = log_p.exp()
        for j in range(0, others, c_step):
            c = slice(j, min(j + c_step, others))
            shape = (width, c.stop - c.start, n.stop - n.start)
            total, log_total = (buffer[: math.prod(shape)].view(shape) for buffer in buffers)
            torch.add(p[:, None, :], q[:, c, None], out=total)
            torch.log(total, out=log_total)
            yield n, c, log_p, p, total, log_total


def forward(p_logits: torch.Tensor, q_logits: torch.Tensor) -> torch.Tensor:
    """[N, D], [C, D] -> [N, C] nats, float32 (float64 for float64). None of N, C, D is 0."""
    dtype = accumulation_dtype(p_logits.dtype)
    out = torch.empty(len(p_logits), len(q_logits), dtype=dtype, device=p_logits.device)
    by_q = out.t()
    if len(p_logits) < len(q_logits):
        p_logits, q_logits, by_q = q_logits, p_logits, out
    width = p_logits.shape[1]
    indistinct = tolerance(torch.float64, width) * (1 + math.log(width))
    ceiling = greatest_divergence(dtype)
    log_q = _log_probabilities(q_logits)
    q_information = (log_q.exp() * log_q).sum(0).div_(2).add_(math.log(2))
    for n, c, log_p, p, total, log_total in _tiles(p_logits, log_q):
        if c.start == 0:
            p_information = (p * log_p).sum(0).div_(2)
        divergence = p_information + q_information[c, None]
        divergence.sub_(log_total.mul_(total).sum(0), alpha=0.5)
        torch.nn.functional.threshold_(divergence, indistinct, 0.0)
        by_q[c, n] = divergence.clamp_(max=ceiling)
    return out


def backward(
    p_logits: torch.Tensor, q_logits: torch.Tensor, grad_output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of both logits, [N, D] and [C, D] in their dtype, from grad_output [N, C]."""
    if len(p_logits) < len(q_logits):
        grad_q, grad_p = backward(q_logits, p_logits, grad_output.t())
        return grad_p, grad_q
    weight = grad_output.t().double()
    log_q = _log_probabilities(q_logits)
    weighted_q = log_q * weight.sum(1)
    grad_p = torch.empty_like(p_logits)
    for n, c, log_p, p, _, log_total in _tiles(p_logits, log_q):
        if c.start == 0:
            weighted_p = log_p * weight[:, n].sum(0)
        log_total.mul_(weight[c, n])
        weighted_p -= log_total.sum(1)
        weighted_q[:, c] -= log_total.sum(2)
        if c.stop == len(q_logits):
            grad_p[n] = _through_softmax(p, weighted_p)
    return grad_p, _through_softmax(log_q.exp_(), weighted_q).to(q_logits.dtype)


def _through_softmax(p, weighted):
    """Equation (7): p and weighted log ratios [D, R] -> [R, D]. A constant added to `weighted` drops out."""
    u = p * weighted
    return ((u - p * u.sum(0)) / 2).t()
