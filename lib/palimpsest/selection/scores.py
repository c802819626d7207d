"""The methods that are a ranking by one recorded number, and the two that look at nothing."""

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.selection.registry import Context, method
from palimpsest.selection.signals import el2n as el2n_score


@method("full", source="the whole set")
def full(ctx: Context) -> Tensor:
    """Keep everything, whatever the fraction: the ceiling."""
    return torch.arange(len(ctx.labels))


@method("random", source="stratified sampling without replacement")
def random(ctx: Context) -> Tensor:
    """Keep each class's budget at random. With one seed, a smaller fraction is a subset of a larger one."""
    return ctx.by_class(lambda members, k: torch.randperm(len(members), generator=ctx.generator)[:k])


@method("el2n", source="Paul, Ganguli, Dziugaite 2021, arXiv:2107.07075", needs=("early_logits",))
def el2n(ctx: Context) -> Tensor:
    """Keep the largest EL2N, the hardest samples. Theirs: score and direction. Ours: the class budget."""
    return ctx.keep_smallest(-el2n_score(ctx.signals.early_logits, ctx.labels))


@method("grand", source="Paul, Ganguli, Dziugaite 2021, arXiv:2107.07075", needs=("grad_norms",))
def grand(ctx: Context) -> Tensor:
    """Keep the largest mean GraNd over networks. Theirs: score and direction. Ours: the class budget."""
    return ctx.keep_smallest(-ctx.signals.grad_norms.mean(0))


@method("forgetting", source="Toneva et al. 2019, ICLR, arXiv:1812.05159", needs=("forgetting",))
def forgetting(ctx: Context) -> Tensor:
    """Keep the most forgotten. Theirs: the count, the unforgettable dropped first. Ours: the class budget."""
    return ctx.keep_smallest(-ctx.signals.forgetting)


@method("low_loss", source="Han et al. 2018, NeurIPS (Co-teaching), arXiv:1804.06872", needs=("logits",))
def low_loss(ctx: Context) -> Tensor:
    """Keep the smallest cross-entropy under the final network, taken as the clean samples.

    Theirs: the small-loss trick, within each minibatch and between two networks that teach each other. Ours:
    one network, once, after training, per class.
    """
    return ctx.keep_smallest(F.cross_entropy(ctx.signals.logits, ctx.labels, reduction="none"))
