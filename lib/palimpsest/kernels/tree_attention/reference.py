"""The definition, in plain torch. Equation numbers are those of README.md in this folder."""

import torch

from palimpsest.kernels.tolerances import accumulation_dtype

UNDERFLOW = 2.0**-100
"""Probabilities below this are too near the smallest float32, 2^-126, to keep their relative accuracy."""

EXPONENTIAL_ROUNDINGS = 40
"""torch's scaled_dot_product_attention takes an exponential that promises 20 units in the last place on CPU."""


def visible(ancestors: torch.Tensor, prefix_len: int | torch.Tensor, keys: int) -> torch.Tensor:
    """Equations (1) and (5): True where a node sees a key, bool [T, S], or [B, T, S] if requests differ."""
    if not isinstance(prefix_len, torch.Tensor):
        return torch.nn.functional.pad(ancestors, (prefix_len, 0), value=True)
    node = (torch.arange(keys, device=ancestors.device) - prefix_len[:, None])[:, None, :]
    nodes = ancestors.shape[-1]
    at = node.clamp(0, max(nodes - 1, 0)).expand(-1, nodes, -1)
    return (node < 0) | ((node < nodes) & ancestors.expand(len(prefix_len), -1, -1).gather(2, at))


def _scores(q, k, v, ancestors, prefix_len, scale):
    """Scores with -inf where nothing is seen [B, H, T, S], and keys and values [B, H, S, Dh] of every head."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    seen = visible(ancestors, prefix_len, k.shape[2])
    scores = scale * (q @ k.transpose(-1, -2))
    return scores.masked_fill(~(seen if seen.ndim == 2 else seen[:, None]), float("-inf")), k, v


def tree_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ancestors: torch.Tensor,
    prefix_len: int | torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Equation (2), softmax(scores) v; differentiable by autograd.

    Args:
        q, k, v, ancestors, prefix_len: as in `kernels.tree_attention`; computed in float32, or float64 for float64.
        scale: of the scores.

    Returns:
        [B, H, T, Dh] in q's dtype.
    """
    wide = (x.to(accumulation_dtype(q.dtype)) for x in (q, k, v))
    scores, _, values = _scores(*wide, ancestors, prefix_len, scale)
    return (scores.softmax(-1) @ values).to(q.dtype)


def error_scale(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ancestors: torch.Tensor,
    prefix_len: int | torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """[B, H, T, Dh] float64: what the rounding error of the result is proportional to, equation (6)."""
    scores, keys, values = _scores(q.double(), k.double(), v.double(), ancestors, prefix_len, scale)
    seen = torch.isfinite(scores)
    size = abs(scale) * (q.double().abs() @ keys.abs().transpose(-1, -2))
    distance = torch.where(seen, scores.amax(-1, keepdim=True) - scores, 0)
    p = scores.softmax(-1)
    error = size + distance
    error = error + (p * error).sum(-1, keepdim=True) + 1
    floor = UNDERFLOW
    if q.dtype in (torch.float16, torch.bfloat16):
        error = error + 1  # the probabilities are rounded to this dtype as well
        floor = max(floor, torch.finfo(q.dtype).tiny)
    return torch.where(seen, p.clamp(min=floor) * error, 0) @ values.abs()


def terms(k: torch.Tensor) -> int:
    """Roundings to count for one number of the result: of a score, of the sum over the keys, of an exponential."""
    return k.shape[3] + k.shape[2] + EXPONENTIAL_ROUNDINGS
