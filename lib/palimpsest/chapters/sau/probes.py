"""Two looks aside, at the small model: where the gradient of forgetting falls once it is pruned, and how chaotic its
training is."""

import torch

from palimpsest.chapters.sau.profiles import PROFILES
from palimpsest.chapters.sau.small import Cohort
from palimpsest.chapters.sau.small_measures import half
from palimpsest.chapters.shared.profiles import choose
from palimpsest.training import seeds
from palimpsest.training.language import fit
from palimpsest.unlearning.language import pruned_share
from palimpsest.unlearning.language.evaluation import probability


def lost_gradient(profile: str, seed: int, pruner: str, sparsity: str) -> list[dict]:
    """Of each pruned matrix, the "share" of the squared norm of the forget loss's gradient that falls on pruned
    weights, and the share "expected" if the gradient took no notice of the mask; by layer and matrix."""
    cohort = Cohort(choose(profile, PROFILES), "verdict", seed)
    model, masks = cohort.load("target", pruner, sparsity)
    shares = pruned_share(model, cohort.encode(cohort.forget), masks)
    name = {"seed": seed, "pruner": pruner, "sparsity": sparsity}
    rows = []
    for parameter, share in shares.items():
        parts = parameter.split(".")
        row = {**name, "layer": int(parts[parts.index("layers") + 1]), "matrix": parts[-2], "share": share}
        rows.append(row | {"expected": 1 - masks.kept[parameter].float().mean().item()})
    return rows


def train_again(profile: str, seed: int, nudge: float) -> dict:
    """Train the dense target of a verdict seed from scratch, each starting weight times 1 + nudge · N(0, 1).

    Returns the mean loss of each epoch in nats as "losses", the mean answer probabilities of "forget" and of the test
    half's "retain", and "apart", the distance of its weights from those of the experiment's target as a share of
    their norm.
    """
    cohort = Cohort(choose(profile, PROFILES), "verdict", seed)
    model, generator = cohort.untrained(), seeds.generator(seed, "nudge")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + nudge * torch.randn(parameter.shape, generator=generator))
    losses = fit(model, cohort.material("target"), cohort.setting.training, seed)
    used, _ = cohort.load("target")
    mine, theirs = (torch.nn.utils.parameters_to_vector(m.parameters()).detach() for m in (model, used))
    return {
        "nudge": nudge,
        "losses": losses,
        "forget": probability(model, cohort.encode(cohort.forget)),
        "retain": probability(model, cohort.encode(half(cohort, "test")["retain"])),
        "apart": float((mine - theirs).norm() / theirs.norm()),
    }
