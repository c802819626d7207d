"""What `unlearn` refuses."""

import torch
from torch import Tensor, nn

from palimpsest.checks import require_count, require_number


def check(
    models: list[nn.Module],
    x: Tensor,
    y: Tensor,
    forget: Tensor,
    rates: list[float],
    epochs: int,
    batch_size: int,
    seeds: list[int],
    momentum: float,
    weight_decay: float,
) -> None:
    """Raise ValueError naming the argument that cannot be meant."""
    networks = len(models)
    if x.ndim < 3 or y.shape != x.shape[:2] or not len(x) == len(forget) == len(seeds) == networks or networks == 0:
        raise ValueError(
            f"models, x, y, forget, seeds: got {networks} models, shapes {list(x.shape)}, {list(y.shape)} and "
            f"{list(forget.shape)}, {len(seeds)} seeds; want K models, [K, N, ...], [K, N], [K, F] and K seeds"
        )
    if not x.isfinite().all():
        raise ValueError("x: got NaN or infinite values, want finite ones")
    if y.dtype != torch.int64:
        raise ValueError(f"y: got {y.dtype}, want int64")
    samples = y.shape[1]
    if forget.ndim != 2 or forget.dtype != torch.int64 or not 2 <= forget.shape[1] <= samples - 2:
        raise ValueError(
            f"forget: got {forget.dtype} {list(forget.shape)}, want int64 [{networks}, F] with 2 to {samples - 2} "
            f"of {samples} samples; at least two must stay"
        )
    low, high = int(forget.min()), int(forget.max())
    if low < 0 or high >= samples:
        raise ValueError(f"forget: got indices in {low} .. {high}, want 0 .. {samples - 1}")
    if any(len(row.unique()) != len(row) for row in forget):
        raise ValueError("forget: got an index twice, want distinct ones")
    require_count("epochs", epochs)
    require_count("batch_size", batch_size, least=2)
    require_number("momentum", momentum, least=0)
    require_number("weight_decay", weight_decay, least=0)
    if len(rates) != networks:
        raise ValueError(f"lr: got {len(rates)} values, want one number, or a list of {networks}")
    for rate in rates:
        require_number("lr", rate)
