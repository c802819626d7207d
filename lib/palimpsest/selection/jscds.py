"""JSCDS: keep the samples whose divergence to their class centre is average."""

from dataclasses import replace

from torch import Tensor

from palimpsest.selection.divergences import divergence_to_centre
from palimpsest.selection.registry import Context, method
from palimpsest.selection.rules import RULES


@method("jscds", source="Zhang, Tong, Du, Che, Zhu 2024, arXiv:2407.00362")
def jscds(
    ctx: Context, *, divergence: str | None = None, rule: str | None = None, scope: str | None = None
) -> Tensor:
    """Keep the samples that `rule` prefers by their divergence to the class centre; None leaves the preset's.

    Stated by the paper (abstract): class centres from the classifier's embeddings, the Jensen–Shannon
    divergence of sample and centre, the average as the criterion, samples near it kept. What the successor
    code does: half Jeffreys on logits, the farthest kept, with a budget of round(fraction·n_c). Our reading:
    softmax turns the vectors into distributions; "near the average" is the smallest |J − mean J| within the
    class; the budget is ⌊fraction·n_c + ½⌋ (Python's round would take halves to even).
    """
    given = {"divergence": divergence, "rule": rule, "scope": scope}
    preset = replace(ctx.preset, **{name: value for name, value in given.items() if value is not None})
    values = divergence_to_centre(ctx.features, ctx.labels, preset.divergence)
    penalise = RULES[preset.rule]
    if preset.scope == "global":
        return penalise(values).argsort(stable=True)[: ctx.budget(len(values))]
    return ctx.keep_smallest(ctx.within_class(penalise, values))
