"""Herding: grow a subset whose running mean follows the class mean."""

import torch
from torch import Tensor

from palimpsest.selection.divergences import about_mean
from palimpsest.selection.registry import Context, method


@method("herding", source="Welling 2009, ICML (Herding Dynamical Weights to Learn)")
def herding(ctx: Context) -> Tensor:
    """Keep, greedily per class, the sample that brings the mean of those kept nearest to the class mean.

    Theirs: the dynamics that drive the running mean of the chosen features to their expectation. Ours: the
    form without replacement, x_{t+1} = argmin_x ‖(t + 1)μ − Σ_{s≤t} x_s − x‖₂ over the samples not yet
    chosen, on raw features, per class. DeepCore's code takes the argmax of the same norm, which chooses the
    samples that pull the mean farthest away; we take that for an inversion and keep the argmin.
    """
    return ctx.by_class(lambda members, k: _herd(ctx.features[members], k))


def _herd(x: Tensor, k: int) -> Tensor:
    # About the mean the step is argmin ‖x + Σ chosen‖², without the term all candidates share. In float64,
    # where expanding the square loses nothing that float32 features can show.
    x = about_mean(x)
    norms, total, order = x.square().sum(1), torch.zeros_like(x[0]), []
    for _ in range(k):
        order.append((norms + 2 * (x @ total)).argmin())
        total = total + x[order[-1]]
        norms[order[-1]] = torch.inf
    return torch.stack(order)
