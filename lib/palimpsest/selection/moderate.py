"""Moderate core set: samples at the median distance from their class centre."""

from torch import Tensor

from palimpsest.selection.divergences import divergence_to_centre
from palimpsest.selection.registry import Context, method
from palimpsest.selection.rules import near_median


@method("moderate", source="Xia et al. 2023, ICLR (Moderate Coreset)")
def moderate(ctx: Context) -> Tensor:
    """Keep the samples whose L2 distance to the class centre is nearest to the median distance.

    Theirs: the distance in feature space as the score, and scores close to the median. Their code takes the
    coordinate-wise median as centre and keeps a window of ranks around the median over all classes together.
    Ours: the mean as centre, |d − median d|, and the budget, within each class; it equals JSCDS with
    divergence="l2" and rule="near_median".
    """
    distance = divergence_to_centre(ctx.features, ctx.labels, "l2")
    return ctx.keep_smallest(ctx.within_class(near_median, distance))
