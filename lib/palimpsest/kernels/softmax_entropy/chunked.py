"""The torch path: equation (1) as it stands up to 1 MB of logits, else (2) and (4) on tiles that stay in cache."""

import torch

from palimpsest.kernels.softmax_entropy.reference import FAR
from palimpsest.kernels.tolerances import accumulation_dtype

TILE = 1 << 16
"""Elements of one tile for each thread: three of them in float32, 768 KB, fit the second-level cache."""

DIRECT = 1 << 18
"""Up to so many logits, 1 MB in float32, the passes that tiles add cost more than the cache saves."""

NARROW = 32
"""Rows shorter than this leave vector units idle, so they are transposed and run innermost."""

TRANSPOSABLE = 1 << 10
"""With fewer logits than this the transposition costs more than it saves."""


def _rows_innermost(logits):
    return logits.shape[1] < NARROW and logits.numel() >= TRANSPOSABLE


def direct(logits: torch.Tensor) -> torch.Tensor:
    """[N, K] -> entropy [N], NaN where a probability is zero by -inf; torch differentiates it."""
    z, dim = (logits.t().contiguous(), 0) if _rows_innermost(logits) else (logits, -1)
    log_p = z.log_softmax(dim, dtype=accumulation_dtype(z.dtype))
    return torch.linalg.vecdot(log_p.exp(), log_p, dim=dim).neg_()


def _tiles(logits):
    """Walk the rows: a slice, its logits in the accumulation dtype, and the dimension that the softmax is over."""
    dtype = accumulation_dtype(logits.dtype)
    step = max(1, TILE * torch.get_num_threads() // logits.shape[1])
    for i in range(0, len(logits), step):
        n = slice(i, i + step)
        part = logits[n].to(dtype)
        yield (n, part.t().contiguous(), 0) if _rows_innermost(logits) else (n, part, -1)


def forward(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[N, K] -> entropy [N] in nats, then maximum, 1 + R and A of the rows, all float32 (float64 for float64)."""
    dtype = accumulation_dtype(logits.dtype)
    top, total, mean = (torch.empty(len(logits), dtype=dtype, device=logits.device) for _ in range(3))
    _statistics(logits, top, total, mean, cut=logits.is_cuda)
    if not logits.is_cuda and mean.isnan().any():  # by 0 times -inf: a pass over all logits, spared where it can be
        _statistics(logits, top, total, mean, cut=True)
    mean.div_(total).neg_()
    return total.log().add_(mean), top, total, mean


def _statistics(logits, top, total, mean, cut):
    """Fills maximum, 1 + R and W of the rows; `cut` bounds the distances."""
    for n, part, dim in _tiles(logits):
        torch.amax(part, dim, out=top[n])
        t = part - top[n].unsqueeze(dim)
        if cut:
            t.clamp_(min=-FAR)
        exponential = t.exp()
        torch.sum(exponential, dim, out=total[n])
        torch.sum(t.mul_(exponential), dim, out=mean[n])


def backward(
    logits: torch.Tensor, top: torch.Tensor, total: torch.Tensor, mean: torch.Tensor, grad_output: torch.Tensor
) -> torch.Tensor:
    """Gradient of the logits [N, K], in their dtype, from what `forward` gave and grad_output [N]."""
    grad = torch.empty_like(logits)
    factor = grad_output.neg().div_(total)
    for n, part, dim in _tiles(logits):
        t = (part - top[n].unsqueeze(dim)).clamp_(min=-FAR)
        exponential = t.exp()
        factors = t.add_(mean[n].unsqueeze(dim)).mul_(exponential), factor[n].unsqueeze(dim)
        torch.mul(*(x.t() if dim == 0 else x for x in factors), out=grad[n])
    return grad
