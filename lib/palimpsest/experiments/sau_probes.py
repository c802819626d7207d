"""Where the gradient of forgetting falls in a pruned model."""

from palimpsest.experiments.sau_cohort import Cohort
from palimpsest.unlearning.language import pruned_share


def lost_gradient(profile: str, seed: int, pruner: str, sparsity: str) -> list[dict]:
    """Of each pruned matrix, the "share" of the squared norm of the forget loss's gradient that falls on pruned
    weights, and the share "expected" if the gradient took no notice of the mask; by layer and matrix."""
    cohort = Cohort(profile, "verdict", seed)
    model, masks = cohort.load("target", pruner, sparsity)
    shares = pruned_share(model, cohort.encode(cohort.forget), masks)
    name = {"seed": seed, "pruner": pruner, "sparsity": sparsity}
    rows = []
    for parameter, share in shares.items():
        parts = parameter.split(".")
        row = {**name, "layer": int(parts[parts.index("layers") + 1]), "matrix": parts[-2], "share": share}
        rows.append(row | {"expected": 1 - masks.kept[parameter].float().mean().item()})
    return rows
