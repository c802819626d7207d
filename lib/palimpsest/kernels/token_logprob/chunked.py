"""The torch path: equations (2) to (5) of README.md on tiles of the logits that are overwritten one by one."""

import torch

from palimpsest.kernels.tolerances import accumulation_dtype

TILE = 1 << 20
"""Logits of one tile, 4 MB in float32. Measured: smaller tiles slow the matrix products down. At most as many are
taken whole. Where no graph is wanted, whole rows take two such tiles."""

RECORDED = 1 << 22
"""Logits up to which they are taken whole if the gradient of weight is recorded: tiles would be computed twice."""

ROWS = 1024
"""Most tokens of a tile; with fewer, a tile takes more of the vocabulary."""

FEWEST = 128
"""Tokens of a tile, unless it has all, below which the product is measured to slow down."""


ACCUMULATORS = (torch.float32, torch.float64)
"""Inputs that are computed in their own dtype."""


def _slices(count, step):
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _tiling(tokens, vocabulary):
    """Slices of the tokens and of the vocabulary."""
    rows = min(tokens, ROWS, TILE)
    return _slices(tokens, rows), _slices(vocabulary, max(1, TILE // rows))


def _product(a, b, buffer):
    """a b^T in the front of `buffer`."""
    return torch.mm(a, b.t(), out=buffer[: len(a) * len(b)].view(len(a), len(b)))


def _of_whole_rows(hidden, weight, targets):
    """log_softmax may write over its argument: no element is read after it was written."""
    logits = torch.nn.functional.linear(hidden, weight)
    return torch.log_softmax(logits, -1, out=logits).gather(1, targets.unsqueeze(1)).view(-1)


def value_of_few(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Values alone, [T], of inputs in one of ACCUMULATORS: the loss finds the targets' columns sooner than a gather.

    It raises for a target outside the vocabulary, but for -100, which it takes for "none" and gives 0.
    """
    logits = torch.nn.functional.linear(hidden, weight)
    logits = torch.log_softmax(logits, -1, out=logits)
    return torch.nn.functional.nll_loss(logits, targets, reduction="none").neg_()


def value(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Values alone, [T], without a graph, from whole rows of logits, each tile overwritten by its log-softmax.

    `forward` takes over where a tile would hold too few rows, or where weight would have to be cast as a whole.
    """
    tokens, vocabulary, dtype = hidden.shape[0], weight.shape[0], accumulation_dtype(hidden.dtype)
    if tokens * vocabulary <= TILE:
        if hidden.dtype != dtype:
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        return _of_whole_rows(hidden, weight, targets)
    rows = 2 * TILE // vocabulary
    if hidden.dtype != dtype or rows < min(tokens, FEWEST):
        return forward(hidden, weight, targets, False)[0]
    tiles = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([_of_whole_rows(h, weight, y) for h, y in tiles])


def forward(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, with_mean: bool
) -> tuple[torch.Tensor, ...]:
    """Value, row maximum m and row sum of exp(z - m), all [T]; with `with_mean` also sum_v p_v weight_v [T, D].

    That mean is the gradient of hidden but for the target's term. Taken here, from the tile at hand, it spares
    the backward pass one product of the full size.
    """
    hidden = hidden.to(accumulation_dtype(hidden.dtype))
    (tokens, width), vocabulary = hidden.shape, len(weight)
    value, top, sums = torch.empty(3, tokens, dtype=hidden.dtype, device=hidden.device)
    mean = hidden.new_zeros(tokens if with_mean else 0, width)
    blocks, columns = _tiling(tokens, vocabulary)
    buffer = torch.empty(TILE, dtype=hidden.dtype, device=hidden.device)
    for t in blocks:
        best = hidden.new_full((t.stop - t.start,), -torch.inf)
        total, picked = torch.zeros_like(best), best
        for v in columns:
            part = weight[v].to(hidden.dtype)
            z = _product(hidden[t], part, buffer)
            local = targets[t] - v.start
            found = z.gather(1, local.clamp(0, len(part) - 1)[:, None])[:, 0]
            picked = torch.where((local >= 0) & (local < len(part)), found, picked)
            higher = torch.maximum(best, z.amax(1))
            shrink = (best - higher).exp_()
            z.sub_(higher[:, None]).exp_()
            total = total.mul_(shrink).add_(z.sum(1))
            if with_mean:
                mean[t].mul_(shrink[:, None]).addmm_(z, part)
            best = higher
        top[t], sums[t] = best, total
        value[t] = (picked - best) - total.log()
        if with_mean:
            mean[t] /= total[:, None]
    return value, top, sums, mean


def backward(grad_output, hidden, weight, targets, top, total, mean, wanted):
    """Gradients of hidden [T, D] and weight [V, D] in their dtype, from grad_output [T]; None where not wanted."""
    grad_hidden = grad_weight = None
    if wanted[0]:
        grad_hidden = (grad_output[:, None] * (weight[targets].to(mean.dtype) - mean)).to(hidden.dtype)
    if wanted[1]:
        grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        hidden = hidden.to(top.dtype)
        rate, share = grad_output.to(top.dtype), (-grad_output / total)[:, None]
        blocks, columns = _tiling(len(hidden), len(weight))
        buffer = torch.empty(TILE, dtype=hidden.dtype, device=hidden.device)
        for v in columns:
            part = weight[v].to(hidden.dtype)
            summed = grad_weight[v] if weight.dtype == hidden.dtype else torch.empty_like(part)
            for t in blocks:
                z = _product(hidden[t], part, buffer)
                z.sub_(top[t, None]).exp_().mul_(share[t])
                local = targets[t] - v.start
                rows = ((local >= 0) & (local < len(part))).nonzero()[:, 0]
                z[rows, local[rows]] += rate[t][rows]
                torch.addmm(summed, z.t(), hidden[t], beta=int(t.start > 0), out=summed)
            if summed.dtype != weight.dtype:
                grad_weight[v] = summed
    return grad_hidden, grad_weight
