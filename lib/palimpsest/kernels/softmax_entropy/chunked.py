"""The torch path: equations (2) and (4) of README.md on tiles that stay in cache."""

import torch

from palimpsest.kernels.softmax_entropy.reference import FAR
from palimpsest.kernels.tolerances import accumulation_dtype

TILE = 1 << 16
"""Elements of one tile for each thread: two of them in float32, half a MB, fit the second-level cache."""

SMALL = 1 << 10
"""Up to so many logits, few torch calls count for more than quick ones."""


def _tiles(logits):
    """Walk the rows: a slice, |t| and e^t of its rows in the accumulation dtype, and 1 + R of each row.

    The two tiles live in buffers that the next step overwrites.
    """
    dtype = accumulation_dtype(logits.dtype)
    rows, width = logits.shape
    step = min(rows, max(1, TILE * torch.get_num_threads() // width))
    buffers = [torch.empty(step, width, dtype=dtype, device=logits.device) for _ in range(2)]
    for i in range(0, rows, step):
        part = logits[i : i + step].to(dtype)
        distance, exponential = (buffer[: len(part)] for buffer in buffers)
        torch.sub(part.amax(-1, keepdim=True), part, out=distance).clamp_(max=FAR)
        torch.exp(torch.neg(distance, out=exponential), out=exponential)
        yield slice(i, i + step), distance, exponential, exponential.sum(-1, keepdim=True)


def forward(logits: torch.Tensor) -> tuple[torch.Tensor]:
    """[N, K] -> entropy [N] in nats, float32 (float64 for float64), and nothing else. Neither N nor K is 0."""
    dtype = accumulation_dtype(logits.dtype)
    if logits.numel() <= SMALL:
        return (torch.special.entr(logits.softmax(-1, dtype=dtype)).sum(-1),)
    entropy = torch.empty(len(logits), dtype=dtype, device=logits.device)
    for n, distance, exponential, total in _tiles(logits):
        mean = distance.mul_(exponential).sum(-1, keepdim=True).div_(total)
        entropy[n] = total.log_().add_(mean).squeeze(-1)
    return (entropy,)


def backward(logits: torch.Tensor, grad_output: torch.Tensor) -> torch.Tensor:
    """Gradient of the logits [N, K], in their dtype, from grad_output [N]."""
    grad = torch.empty_like(logits)
    for n, distance, exponential, total in _tiles(logits):
        mean = torch.linalg.vecdot(distance, exponential).unsqueeze(-1).div_(total)
        factor = grad_output[n].unsqueeze(-1) / total
        grad[n] = distance.sub_(mean).mul_(exponential).mul_(factor)
    return grad
