"""CCS: coverage-centric selection, stratified over the range of a difficulty score."""

import math
from numbers import Real

import torch
from torch import Tensor

from palimpsest.selection.registry import Context, method
from palimpsest.selection.signals import el2n


@method("ccs", source="Zheng et al. 2023, ICLR, arXiv:2210.15809, algorithm 1", needs=("early_logits",))
def ccs(ctx: Context, *, beta: float = 0.1, bins: int = 50) -> Tensor:
    """Drop the ⌊beta·n_c⌋ hardest samples of each class, then draw evenly from `bins` strata of the score.

    Theirs: the hard cutoff, the equal-width strata, and the budget handed out from the least populated
    stratum up, each taking min(its size, what is left / strata left), drawn at random; 50 strata in their
    code. They score by AUM over the whole data set and tune beta for each data set and budget (0.3 in their
    CIFAR-10 example at 10 % kept). Ours: the score is EL2N of `early_logits`, cutoff and strata are per
    class, and beta is left at 0.1 unless the caller tunes it.

    Raises `ValueError` for beta outside [0, 1), bins below 1, and a cutoff that leaves less than the budget.
    """
    if isinstance(beta, bool) or not isinstance(beta, Real) or not 0 <= beta < 1:
        raise ValueError(f"beta is {beta!r}; wanted a number in [0, 1)")
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ValueError(f"bins is {bins!r}; wanted a positive integer")
    score = el2n(ctx.signals.early_logits, ctx.labels)

    def pick(members: Tensor, k: int) -> Tensor:
        left = len(members) - math.floor(beta * len(members))
        if left < k:
            label = int(ctx.labels[members[0]])
            raise ValueError(
                f"beta {beta:g} leaves {left} of the {len(members)} samples of class {label}, "
                f"but fraction {ctx.fraction:g} keeps {k}; wanted beta of at most 1 - fraction"
            )
        easy = score[members].argsort(stable=True)[:left]
        return easy[_stratified(score[members][easy], k, bins, ctx.generator)]

    return ctx.by_class(pick)


def _stratified(score: Tensor, k: int, bins: int, generator: torch.Generator) -> Tensor:
    width = (score.max() - score.min()).clamp(min=torch.finfo(score.dtype).tiny)
    stratum = ((score - score.min()) / width * bins).long().clamp(max=bins - 1)
    # Empty strata would take nothing and hand their share on, so only the populated ones are counted.
    strata, sizes = stratum.unique(return_counts=True)
    drawn, rest = [], k
    for taken, i in enumerate(sizes.argsort(stable=True).tolist()):
        members = (stratum == strata[i]).nonzero().flatten()
        share = min(len(members), rest // (len(strata) - taken))
        drawn.append(members[torch.randperm(len(members), generator=generator)[:share]])
        rest -= share
    return torch.cat(drawn)
