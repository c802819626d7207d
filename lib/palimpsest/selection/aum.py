"""CCS as its authors score: by AUM, over the whole data set. `select(..., "ccs")` scores by EL2N within classes."""

import math

import torch
from torch import Tensor

from palimpsest.checks import require_count, require_number
from palimpsest.selection import checks
from palimpsest.selection.ccs import _stratified


def aum(logits: Tensor, labels: Tensor) -> Tensor:
    """Area under the margin: the mean over epochs of z_y − max_{k≠y} z_k. [E, N, C] float, [N] int -> [N] float64.

    Pleiss et al. 2020, "Identifying mislabeled data using the area under the margin ranking" (arXiv 2001.10528,
    section 3.2): logits of a training run, one row per epoch in which the sample was seen. Low for hard and wrongly
    labelled samples.
    """
    logits = checks.float_tensor("logits", logits, "ENC").double()
    checks.finite("logits", logits, "ENC")
    labels = checks.labels_tensor(labels, logits.shape[1]).to(logits.device)
    checks.labels_below("logits", labels, logits.shape[2])
    if logits.shape[2] < 2:
        raise ValueError("logits has 1 class column; wanted at least 2, for a margin")
    place = labels.expand(len(logits), -1)[..., None]
    others = logits.scatter(2, place, -torch.inf).amax(2)
    return (logits.gather(2, place)[..., 0] - others).mean(0)


def ccs_by_aum(margins: Tensor, fraction: float, *, beta: float = 0.1, bins: int = 50, seed: int = 0) -> Tensor:
    """Drop the ⌊beta·N⌋ samples of lowest margin, then draw ⌊fraction·N + ½⌋ evenly from `bins` strata of it.

    Zheng et al. 2023, ICLR, arXiv:2210.15809, algorithm 1: the hard cutoff, and strata of equal width over the range
    of the score from the least populated one up. beta is to be tuned for each data set and fraction. Over all classes
    together, so a small class may be lost.

    margins: [N] as `aum` gives them. Returns the indices kept, int64, ascending, on the CPU. Raises ValueError for
    numbers outside their ranges, and a cutoff that leaves less than the budget.
    """
    margins = checks.float_tensor("margins", margins, "N")
    checks.finite("margins", margins, "N")
    require_number("fraction", fraction, most=1)
    require_number("beta", beta, least=0, most=math.nextafter(1, 0))
    require_count("bins", bins)
    require_count("seed", seed, least=0)
    budget = max(1, math.floor(fraction * len(margins) + 0.5))
    left = margins.argsort(stable=True)[math.floor(beta * len(margins)) :]
    if len(left) < budget:
        raise ValueError(
            f"beta: got {beta:g}, which leaves {len(left)} samples of {budget} to keep, want a smaller one"
        )
    drawn = _stratified(margins[left], budget, bins, torch.Generator().manual_seed(seed))
    return left[drawn].sort().values.cpu()
