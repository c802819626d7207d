"""k-center greedy: cover each class with balls of the smallest radius."""

import torch
from torch import Tensor

from palimpsest.selection.divergences import about_mean
from palimpsest.selection.registry import Context, method


@method("k_center", source="Sener and Savarese 2018, ICLR, arXiv:1708.00489, algorithm 1")
def k_center(ctx: Context) -> Tensor:
    """Keep, greedily per class, the sample farthest in L2 from those already kept.

    Theirs: the greedy 2-approximation of the k-center problem, over the whole pool and from an initial
    labelled pool. Ours: per class, so that the class budgets equal every other method's, and starting from
    the sample nearest to the class mean, so that nothing is drawn at random.
    """
    return ctx.by_class(lambda members, k: _cover(ctx.features[members], k))


def _cover(x: Tensor, k: int) -> Tensor:
    # About the mean and in float64, where expanding ‖x − x_j‖² loses nothing that float32 features can show.
    x = about_mean(x)
    norms = x.square().sum(1)
    order, radius = [norms.argmin()], torch.full_like(norms, torch.inf)
    while len(order) < k:
        last = order[-1]
        radius = torch.minimum(radius, norms + norms[last] - 2 * (x @ x[last]))
        # Below every distance left, so that duplicates of a chosen sample come before the sample itself.
        radius[last] = -torch.inf
        order.append(radius.argmax())
    return torch.stack(order)
