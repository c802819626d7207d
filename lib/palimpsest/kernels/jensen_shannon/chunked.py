"""The torch path: equations (11) and (7) of README.md on tiles that stay in cache.

A tile holds rows of p against rows of q: [N, C, D] or, where D is small, [D, C, N], since what runs innermost
should be long. `dim`, -1 or 0, is the place of D; matrices of one side are [R, D] or [D, R].
"""

import functools

import torch

from palimpsest.kernels.jensen_shannon.reference import greatest_divergence
from palimpsest.kernels.tolerances import accumulation_dtype

TILE = 1 << 18
"""Elements of one tile for each thread, 1 MB in float32: smaller ones cost more calls than the cache saves."""

NARROW = 32
"""Rows shorter than this leave vector units idle, so they are transposed and run innermost."""

TRANSPOSABLE = 1 << 13
"""With fewer elements of all pairs than this the transposition costs more than it saves."""

SMALLEST = 1e-37
"""Stands for probability zero: a normal number in float32, beside which products with it vanish."""


@functools.cache
def _constants(dtype):
    """1/2, 2, 2 - edge and 2 - 2 edge as tensors: torch is slower to take a Python number."""
    edge = 2 * torch.finfo(dtype).eps
    return *(torch.tensor(x, dtype=dtype) for x in (0.5, 2.0, 2.0 - edge)), 2.0 - 2 * edge


def _probabilities(logits, dim):
    """[R, D] -> softmax in the accumulation dtype, laid out by `dim`."""
    if dim == 0:
        logits = logits.t().contiguous()
    dtype = accumulation_dtype(logits.dtype)
    return logits.softmax(dim) if logits.dtype == dtype else logits.softmax(dim, dtype=dtype)


def _pairs(p: torch.Tensor, q: torch.Tensor, dim: int) -> torch.Tensor:
    """Equation (11): probabilities of N and C rows -> [N, C] nats."""
    half, two, highest, slope = _constants(p.dtype)
    alone = dim == -1 and q.shape[0] == 1  # then N x D is N x C x D, and two calls are spared
    if not alone:
        p, q = p.unsqueeze(1), q.unsqueeze(2 * dim + 2)
    total = p + q.clamp_min(SMALLEST)
    b = torch.sub(highest, torch.div(p, total, out=total), alpha=slope)
    a = torch.sub(two, b, out=total)  # exact, whatever b was rounded to
    divergence = a.log_().mul_(p).addcmul_(b.log_(), q).sum(dim, keepdim=alone)
    divergence.mul_(half).clamp_(0, greatest_divergence(p.dtype))
    return divergence.t() if dim == 0 else divergence


def _log_ratios(p, q, weight, dim):
    """Sums of weight [N, C] / 2 times ln p/m over the rows of q and times ln q/m over those of p, as p and q."""
    half, p, q = _constants(p.dtype)[0], p.clamp_min(SMALLEST), q.clamp_min(SMALLEST)
    weight = ((weight.t() if dim == 0 else weight) * half).unsqueeze(dim)
    mixture = (p * half).unsqueeze(1) + (q * half).unsqueeze(2 * dim + 2)
    ratio = p.unsqueeze(1) / mixture
    of_p = ratio.log_().mul_(weight).sum(1)
    torch.div(q.unsqueeze(2 * dim + 2), mixture, out=ratio)
    return of_p, ratio.log_().mul_(weight).sum(2 * dim + 2)


def _through_softmax(p, weighted, dim, like):
    """Equation (7) from p and weighted log ratios, which are overwritten -> [R, D] in the dtype of `like`."""
    u = weighted.mul_(p)
    grad = u.addcmul_(p, u.sum(dim, keepdim=True), value=-1)
    return (grad.t() if dim == 0 else grad).to(like.dtype)


def _layout(p_logits, q_logits):
    """`dim`, and how many rows of p and of q make a tile."""
    (rows, width), others = p_logits.shape, q_logits.shape[0]
    dim = 0 if width < NARROW and rows * others * width >= TRANSPOSABLE else -1
    tile = TILE * torch.get_num_threads()
    n_step = min(rows, max(1, tile // width))
    return dim, n_step, min(others, max(1, tile // (width * n_step)))


def forward(p_logits: torch.Tensor, q_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[N, D], [C, D] -> [N, C] nats, float32 (float64 for float64), and what `backward` wants kept.

    None of N, C, D is 0. Kept are the probabilities, where all pairs fit one tile.
    """
    rows, others = p_logits.shape[0], q_logits.shape[0]
    if rows < others:
        by_q, *kept = forward(q_logits, p_logits)
        return by_q.t().contiguous(), *kept
    dim, n_step, c_step = _layout(p_logits, q_logits)
    q = _probabilities(q_logits, dim)
    if n_step == rows and c_step == others:
        p = _probabilities(p_logits, dim)
        return _pairs(p, q, dim).contiguous(), p, q
    out = torch.empty(rows, others, dtype=q.dtype, device=q.device)
    for i in range(0, rows, n_step):
        n = slice(i, i + n_step)
        p = _probabilities(p_logits[n], dim)
        for part, tile in zip(q.split(c_step, dim + 1), out[n].split(c_step, 1), strict=True):
            tile.copy_(_pairs(p, part, dim))
    return (out,)


def backward(
    p_logits: torch.Tensor, q_logits: torch.Tensor, *kept_and_grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of both logits, [N, D] and [C, D] in their dtype, from what was kept and grad_output [N, C]."""
    *kept, weight = kept_and_grad
    if len(p_logits) < len(q_logits):
        return backward(q_logits, p_logits, *kept, weight.t())[::-1]
    dim, n_step, c_step = _layout(p_logits, q_logits)
    if kept:
        p, q = kept
        of_p, of_q = _log_ratios(p, q, weight, dim)
        return _through_softmax(p, of_p, dim, p_logits), _through_softmax(q, of_q, dim, q_logits)
    q = _probabilities(q_logits, dim)
    sum_q, grad_p = torch.zeros_like(q), torch.empty_like(p_logits)
    for i in range(0, len(p_logits), n_step):
        n = slice(i, i + n_step)
        p = _probabilities(p_logits[n], dim)
        sum_p = torch.zeros_like(p)
        tiles = (q.split(c_step, dim + 1), sum_q.split(c_step, dim + 1), weight[n].split(c_step, 1))
        for others, sum_others, weight_tile in zip(*tiles, strict=True):
            of_p, of_q = _log_ratios(p, others, weight_tile, dim)
            sum_p += of_p
            sum_others += of_q
        grad_p[n] = _through_softmax(p, sum_p, dim, p_logits)
    return grad_p, _through_softmax(q, sum_q, dim, q_logits)
